"""Trials that end early: what falls behind at equal compute is told as pruned, what diverges as failed."""

from __future__ import annotations

import json

import optuna
import pytest
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_what_falls_behind_is_pruned_and_what_diverges_fails_alone(home):
    spec = home.write(
        trial={**home.spec["trial"], "steps": 12, "learner": {"lr": 2e-4}},
        candidates=[
            {"strategy": {"preset": "v05", "group_size": 4}},
            {"strategy": "unlearn:Unlearn", "label": "unlearn"},
            {"strategy": "diverges:Diverges", "label": "diverges"},
        ],
        # One slot, and each candidate's own values first: V0.5 has filled the rung when the other reaches it.
        slots={"count": 1},
        search={"trials": 3, "early_stopping": {"type": "asha", "first_rung": 256, "reduction_factor": 2}},
    )
    done = home.run("sweep", str(spec))
    assert done.returncode == 0, done.stdout + done.stderr
    assert home.processes() == []

    journal = home.path / "sweeps" / "small" / "study.journal"
    storage = JournalStorage(JournalFileBackend(str(journal)))
    (reference,) = optuna.load_study(study_name="small/reference", storage=storage).trials
    better, worse, nan = optuna.load_study(study_name="small", storage=storage).trials
    assert [t.state for t in (reference, better, worse, nan)] == [
        TrialState.COMPLETE,
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
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
    assert "stopped" in statuses["Unlearn"]
    assert statuses["Diverges"] == ["failed"], "never tried again: the next seed would diverge alike"
    trials = json.loads(home.run("status", "small", "--home", str(home.path), "--json").stdout)["trials"]
    assert [t["cause"] for t in trials if t["status"] == "failed"] == ["diverged"]
