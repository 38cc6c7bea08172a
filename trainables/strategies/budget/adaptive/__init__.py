"""Budgets that spend by a prompt's own outcomes: of this step's probes, or of its earlier visits."""
