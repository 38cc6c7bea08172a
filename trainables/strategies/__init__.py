"""Baselines as prior x fusion x budget. `config` is what a user writes, `build` makes it run.

Nothing is imported here: the CLI reads `trainables.strategies.config` and must not pay for NumPy.
"""
