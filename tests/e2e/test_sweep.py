"""A whole sweep as a user runs it: DAPO, V0.5 and a strategy that breaks, three seeds each, into MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from scipy import stats

from trimtab.sweepdir import journal

STEPS = 18


@pytest.fixture
def swept(home):
    """The command's result, the home and the runs that MLflow holds."""
    broken = {"strategy": "broken:Broken", "label": "broken"}
    # Long enough for both slots to be at work at once, though one may be up earlier.
    trial = {**home.spec["trial"], "steps": STEPS, "evaluation": {"every": STEPS // 3, "samples": 1}}
    spec = home.write(trial=trial, candidates=[{"strategy": {"preset": "v05", "group_size": 4}}, broken])
    done = home.run("sweep", str(spec))
    client = MlflowClient(f"sqlite:///{home.path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("trimtab")
    assert experiment is not None, done.stdout + done.stderr
    return done, home, client, client.search_runs([experiment.experiment_id], max_results=1000)


def curve(client: MlflowClient, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy by cumulative rollouts, from the metric that is logged on that axis."""
    points = sorted(
        (m.step, m.value) for m in client.get_metric_history(run.info.run_id, "by_rollouts/accuracy")
    )
    return np.array([s for s, _ in points], float), np.array([v for _, v in points])


def final(client: MlflowClient, run: Run) -> float:
    return float(curve(client, run)[1][-3:].mean())


def area_difference(mine: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]) -> float:
    """Mean difference of two curves over the compute that both cover, on a fine grid."""
    grid = np.linspace(0, min(mine[0][-1], theirs[0][-1]), 20001)
    return float(np.mean(np.interp(grid, *mine) - np.interp(grid, *theirs)))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_ends_with_its_table_and_leaves_nothing_behind(swept):
    done, home, client, runs = swept
    assert done.returncode == 0, done.stdout + done.stderr
    assert "search only" in done.stdout
    assert "make ui" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert home.processes() == []

    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    below = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    (parent,) = parents
    assert parent.info.status == "FINISHED"
    assert {r.data.tags["mlflow.parentRunId"] for r in below} == {parent.info.run_id}
    children = [r for r in below if "trimtab.seed" in r.data.tags]
    assert len(below) == len(children) + 1, "and one for the machine's metrics"
    by_status: dict[str, list[Run]] = {}
    for run in children:
        by_status.setdefault(run.info.status, []).append(run)

    # DAPO and V0.5: three seeds each, whole curves at equal compute.
    finished = by_status["FINISHED"]
    assert len(finished) == 6
    for run in finished:
        rollouts, accuracy = curve(client, run)
        assert rollouts[0] == 0
        assert STEPS * 32 - 16 <= rollouts[-1] <= STEPS * 32
        assert ((accuracy >= 0) & (accuracy <= 1)).all()
    # The broken strategy: failed, with its traceback; the others went on.
    (failed,) = by_status["FAILED"]
    files = [f.path for f in client.list_artifacts(failed.info.run_id)]
    (trace,) = [f for f in files if "traceback" in f]
    file = Path(client.download_artifacts(failed.info.run_id, trace))
    assert "the user's own bug" in file.read_text()

    check_that_trials_ran_at_once(home.path / "sweeps" / "small")

    # The table, recomputed here from MLflow alone.
    shown = home.run("compare", "small", "--home", str(home.path), "--json")
    assert shown.returncode == 0, shown.stderr
    table = json.loads(shown.stdout)
    check_table(client, finished, table)


def check_that_trials_ran_at_once(folder: Path) -> None:
    """Two slots on two cores: the reference and the first candidate each trained while the other did."""
    spans = []
    for trial in ("trial-0000", "trial-0001"):
        steps = [e["time"] for e in journal.read(folder, trial) if e["event"] == "step"]
        spans.append((min(steps), max(steps)))
    (first, last), (other_first, other_last) = spans
    assert max(first, other_first) < min(last, other_last)


def check_table(client: MlflowClient, finished: list[Run], table: dict) -> None:
    groups: dict[str, dict[int, Run]] = {}
    for run in finished:
        groups.setdefault(run.data.tags["trimtab.role"], {})[int(run.data.tags["trimtab.seed"])] = run
    rows = {row["role"]: row for row in table["rows"] if row["final_mean"] is not None}
    assert rows.keys() == {"reference", "candidate"}
    for role, row in rows.items():
        values = [final(client, run) for run in groups[role].values()]
        assert row["final_mean"] == pytest.approx(np.mean(values))
        assert row["final_sd"] == pytest.approx(np.std(values, ddof=1))
        assert row["seeds"] == [0, 1, 2]
        spent = [curve(client, run)[0][-1] for run in groups[role].values()]
        assert row["rollouts"] == pytest.approx(np.mean(spent))
    assert table["level"] == pytest.approx(rows["reference"]["final_mean"])
    differences = [
        area_difference(curve(client, groups["candidate"][s]), curve(client, groups["reference"][s]))
        for s in (0, 1, 2)
    ]
    interval = rows["candidate"]["difference"]
    assert interval["mean"] == pytest.approx(np.mean(differences), abs=1e-4)
    half = stats.t.ppf(0.975, 2) * np.std(differences, ddof=1) / np.sqrt(3)
    assert interval["high"] - interval["mean"] == pytest.approx(half, abs=1e-3)
