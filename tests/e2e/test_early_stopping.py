"""ASHA at equal compute: what falls behind is stopped and told as pruned; the reference never is."""

from __future__ import annotations

import optuna
import pytest
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_configuration_that_falls_behind_is_pruned(home):
    spec = home.write(
        trial={**home.spec["trial"], "steps": 12, "learner": {"lr": 2e-4}},
        candidates=[
            {"strategy": {"preset": "v05", "group_size": 4}},
            {"strategy": "unlearn:Unlearn", "label": "unlearn"},
        ],
        # One slot, and each candidate's own values first: V0.5 has filled the rung when the other reaches it.
        slots={"count": 1},
        search={"trials": 2, "early_stopping": {"type": "asha", "first_rung": 256, "reduction_factor": 2}},
    )
    done = home.run("sweep", str(spec))
    assert done.returncode == 0, done.stdout + done.stderr
    assert home.processes() == []

    journal = home.path / "sweeps" / "small" / "study.journal"
    storage = JournalStorage(JournalFileBackend(str(journal)))
    (reference,) = optuna.load_study(study_name="small/reference", storage=storage).trials
    better, worse = optuna.load_study(study_name="small", storage=storage).trials
    assert [t.state for t in (reference, better, worse)] == [
        TrialState.COMPLETE,
        TrialState.COMPLETE,
        TrialState.PRUNED,
    ]
    assert reference.user_attrs["job"]["role"] == "reference"
    assert worse.value is None or worse.value == worse.intermediate_values[max(worse.intermediate_values)]
    assert 256 <= max(worse.intermediate_values) < 3 * 12 * 32
    assert better.value > worse.intermediate_values[max(worse.intermediate_values)]

    client = MlflowClient(f"sqlite:///{home.path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("trimtab")
    statuses: dict[str, list[str]] = {}
    for run in client.search_runs([experiment.experiment_id]):
        if "trimtab.seed" in run.data.tags:
            label = run.data.tags["trimtab.label"].split("(")[0]
            statuses.setdefault(label, []).append(run.data.tags["trimtab.status"])
    assert statuses["dapo"] == statuses["v05"] == ["finished"] * 3
    (stopped,) = [found for label, found in statuses.items() if label not in ("dapo", "v05")]
    assert "stopped" in stopped
