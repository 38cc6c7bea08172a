"""Baselines as prior x fusion x budget: `config` is what a user writes, and its `build` makes it run."""
