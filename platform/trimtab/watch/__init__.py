"""Shows a sweep while it runs and afterwards: the live display, `trimtab status`, the MLflow UI."""
