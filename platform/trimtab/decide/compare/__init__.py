"""MLflow -> the comparison with the reference: curves, intervals, verdicts."""
