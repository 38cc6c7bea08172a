-- Studies beside MLflow's own tables, in a database of their own.
CREATE DATABASE optuna OWNER mlflow;
