"""What a sweep ended with, in its studies and in MLflow: what two sweeps are compared by."""

from __future__ import annotations

import optuna
from mlflow import MlflowClient
from optuna.trial import TrialState

from trimtab.search.study import open_storage


def ended(home, name: str) -> list[tuple[TrialState, float, dict[int, float]]]:
    """State, value and intermediate values of every trial, reference first."""
    storage = open_storage(None, home.path / "sweeps" / name)
    studies = (optuna.load_study(study_name=study, storage=storage) for study in (f"{name}/reference", name))
    return [(t.state, t.value, t.intermediate_values) for study in studies for t in study.trials]


def curves(home, name: str) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(Trial, seed) -> accuracy against rollouts in MLflow; every point counts, so a duplicate shows."""
    client = MlflowClient(f"sqlite:///{home.path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("trimtab")
    found = {}
    for run in client.search_runs([experiment.experiment_id], f"tags.`trimtab.sweep` = '{name}'"):
        if "trimtab.seed" in run.data.tags:
            assert run.info.status == "FINISHED"
            points = client.get_metric_history(run.info.run_id, "by_rollouts/accuracy")
            key = run.data.tags["trimtab.trial"], run.data.tags["trimtab.seed"]
            assert key not in found, "one run a trial and seed, whatever happened in between"
            found[key] = sorted((point.step, point.value) for point in points)
    return found
