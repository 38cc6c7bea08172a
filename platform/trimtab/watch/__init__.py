"""What reads a sweep's journal and shows it: the live display, status, the MLflow UI."""
