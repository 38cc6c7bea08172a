"""MLflow: turns a sweep's journal into runs, and keeps up with it while the sweep runs."""
