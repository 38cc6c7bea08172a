"""The journal -> MLflow."""
