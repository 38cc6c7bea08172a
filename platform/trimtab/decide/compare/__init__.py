"""Compares a sweep's configurations with its reference: curves from MLflow, intervals, verdicts."""
