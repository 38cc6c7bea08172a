"""What a comparison found, put where the MLflow UI shows it: description, metrics."""
