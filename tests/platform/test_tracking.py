"""The tracker: journal to a real MLflow store on SQLite."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trimtab import records
from trimtab.spec import SweepSpec
from trimtab.tracking import Tracker
from trimtab.tracking.store import connect
from trimtab.tracking.translate import MAX_METRICS, LogPoints, OpenRun, Translator

CURVE = [0.5, 0.55, 0.6, 0.62, 0.64, 0.65, 0.66]


def track(journal, uri, status="finished"):
    tracker = Tracker(journal.folder, uri, "quickstart", journal.spec)
    tracker.start()
    left = tracker.close(status, timeout_s=60)
    assert left == []
    return tracker


def runs_of(uri, where=""):
    client = connect(uri)
    experiment = client.get_experiment_by_name("trimtab")
    return client.search_runs([experiment.experiment_id], where, max_results=1000)


def children(uri):
    return [run for run in runs_of(uri) if "mlflow.parentRunId" in run.data.tags]


def history(uri, run, name):
    points = connect(uri).get_metric_history(run.info.run_id, name)
    return [(point.step, point.value) for point in sorted(points, key=lambda point: point.step)]


def test_one_parent_and_a_child_for_each_configuration_and_seed(journal, store_uri) -> None:
    for number, trial in enumerate(("a", "b")):
        journal.start(trial, number)
        for seed in (0, 1, 2):
            journal.run(trial, seed, CURVE)
        journal.finish(trial)
    tracker = track(journal, store_uri)
    parents = [run for run in runs_of(store_uri) if run.data.tags["trimtab.role"] == "sweep"]
    assert [run.info.run_id for run in parents] == [tracker.parent_run_id]
    assert parents[0].info.status == "FINISHED"
    found = children(store_uri)
    assert sorted((run.data.tags["trimtab.trial"], run.data.tags["trimtab.seed"]) for run in found) == [
        (trial, str(seed)) for trial in ("a", "b") for seed in (0, 1, 2)
    ]
    assert {run.data.tags["mlflow.parentRunId"] for run in found} == {tracker.parent_run_id}
    assert {run.info.status for run in found} == {"FINISHED"}


def test_curves_by_step_and_by_compute(journal, store_uri) -> None:
    journal.start("a")
    journal.run("a", 0, CURVE)
    journal.finish("a")
    track(journal, store_uri)
    (run,) = children(store_uri)
    assert history(store_uri, run, "validation/accuracy") == [(10 * i, a) for i, a in enumerate(CURVE)]
    assert history(store_uri, run, "by_rollouts/accuracy") == [(1280 * i, a) for i, a in enumerate(CURVE)]
    assert history(store_uri, run, "by_tokens/accuracy") == [(5000 * i, a) for i, a in enumerate(CURVE)]
    assert history(store_uri, run, "by_rollouts/reward")[-1] == (7680, 0.66)
    assert run.data.metrics["strategy/prior"] == 0.5
    assert run.data.metrics["rollouts"] == 7680


def test_only_searched_parameters_are_params_and_the_config_is_an_artifact(journal, store_uri) -> None:
    journal.start("a", 1, **{"v05.alpha": 0.25, "v05.group_size": 4})
    journal.run("a", 0, CURVE)
    journal.finish("a")
    track(journal, store_uri)
    (run,) = children(store_uri)
    assert run.data.params == {"v05.alpha": "0.25", "v05.group_size": "4"}
    file = Path(connect(store_uri).download_artifacts(run.info.run_id, "config.json"))
    config = json.loads(file.read_text())
    assert config["seed"] == 0
    assert config["learner"]["lr"] == 5e-5
    assert file.is_relative_to(journal.folder.parents[1]) or file.exists()


def test_difference_to_the_reference_at_equal_rollouts(journal, store_uri) -> None:
    # The candidate's file is read first ("a" sorts before "b"): its points wait for the reference.
    journal.start("a", 1)
    journal.run("a", 0, [value + 0.1 for value in CURVE])
    journal.start("b", 0)
    journal.run("b", 0, CURVE)
    journal.finish("b")
    track(journal, store_uri)
    candidate = next(run for run in children(store_uri) if run.data.tags["trimtab.role"] == "candidate")
    points = history(store_uri, candidate, "by_rollouts/accuracy_minus_dapo")
    assert [step for step, _ in points] == [1280 * i for i in range(len(CURVE))]
    assert [value for _, value in points] == pytest.approx([0.1] * len(CURVE))


def test_a_failed_run_is_failed_with_its_traceback(journal, store_uri) -> None:
    journal.start("a")
    journal.run("a", 0, CURVE[:2], status=None)
    journal.event(
        "a", "run_finished", seed=0, status="failed", error="boom", traceback="Traceback: boom here"
    )
    journal.finish("a", "failed", "boom")
    track(journal, store_uri)
    (run,) = children(store_uri)
    assert run.info.status == "FAILED"
    assert run.data.tags["trimtab.error"] == "boom"
    file = Path(connect(store_uri).download_artifacts(run.info.run_id, "traceback.txt"))
    assert "boom here" in file.read_text()


def test_a_trial_that_fails_before_its_first_run_is_visible(journal, store_uri) -> None:
    journal.start("a")
    journal.finish("a", "failed", "no slot")
    track(journal, store_uri)
    (run,) = children(store_uri)
    assert run.info.status == "FAILED"
    assert run.data.tags["trimtab.error"] == "no slot"


@pytest.mark.parametrize(("status", "expected"), [("killed", "KILLED"), ("failed", "FAILED")])
def test_a_run_that_the_sweep_leaves_open_is_not_finished(journal, store_uri, status, expected) -> None:
    journal.start("a")
    journal.run("a", 0, CURVE)
    journal.run("a", 1, CURVE[:3], status=None)
    track(journal, store_uri, status)
    by_seed = {run.data.tags["trimtab.seed"]: run.info.status for run in children(store_uri)}
    assert by_seed == {"0": "FINISHED", "1": expected}


def test_early_stopped_is_told_apart_from_killed(journal, store_uri) -> None:
    journal.start("a")
    journal.run("a", 0, CURVE[:3], status="stopped")
    journal.finish("a", "stopped")
    track(journal, store_uri)
    (run,) = children(store_uri)
    assert run.info.status == "KILLED"
    assert run.data.tags["trimtab.status"] == "stopped"


def test_a_second_tracker_continues_the_runs_without_duplicates(journal, store_uri) -> None:
    journal.start("a")
    journal.run("a", 0, CURVE)
    journal.run("a", 1, CURVE[:3], status=None)
    first = track(journal, store_uri, "killed")
    journal.start("a")
    journal.run("a", 1, CURVE)
    journal.finish("a")
    second = track(journal, store_uri)
    assert second.parent_run_id == first.parent_run_id
    found = {run.data.tags["trimtab.seed"]: run for run in children(store_uri)}
    assert len(children(store_uri)) == 2
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert history(store_uri, found["0"], "by_rollouts/accuracy") == [
        (1280 * i, a) for i, a in enumerate(CURVE)
    ]


def test_long_runs_are_sent_in_batches_within_the_limit(journal, spec: SweepSpec) -> None:
    journal.start("a")
    for step in range(600):
        fields = {"step": step, "rollouts": step, "tokens": step, "seconds": 1.0}
        journal.event("a", "step", seed=0, **fields, metrics={"reward": 0.5})
    operations = Translator("dapo", spec.seeds).feed(records.Tail(journal.folder).read())
    batches = [operation for operation in operations if isinstance(operation, LogPoints)]
    assert isinstance(operations[0], OpenRun)
    assert max(len(batch.points) for batch in batches) == MAX_METRICS
    assert sum(len(batch.points) for batch in batches) == 600 * 6


def test_names_that_mlflow_refuses_are_made_acceptable(journal, store_uri) -> None:
    journal.start("a")
    fields = {"step": 1, "rollouts": 1, "tokens": 1, "seconds": 1.0}
    journal.event("a", "step", seed=0, **fields, metrics={"w>0 [share]": 0.25, "reward": 0.5})
    journal.event("a", "run_finished", seed=0, status="finished", error=None)
    track(journal, store_uri)
    (run,) = children(store_uri)
    assert run.data.metrics["train/w_0 _share_"] == 0.25


def test_a_server_that_is_down_costs_nothing_and_is_caught_up(journal, store_uri, tmp_path, capsys) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    tracker = Tracker(journal.folder, uri, "quickstart", journal.spec)
    tracker.start()
    journal.start("a")
    journal.run("a", 0, CURVE)
    deadline = time.monotonic() + 30
    while tracker.problem is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert tracker.problem is not None
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store_uri, "--workers", "1",
         "--host", "127.0.0.1", "--port", str(port), "--artifacts-destination", str(tmp_path / "artifacts")],
        env={**__import__("os").environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path,
    )  # fmt: skip
    try:
        left = tracker.close("finished", timeout_s=150)
        assert left == []
    finally:
        server.terminate()
        server.wait(timeout=30)
    assert capsys.readouterr().out == "", "the terminal belongs to the progress display"
    (run,) = children(store_uri)
    assert history(store_uri, run, "by_rollouts/accuracy") == [(1280 * i, a) for i, a in enumerate(CURVE)]


def test_what_could_not_be_sent_is_said(journal) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
        tracker = Tracker(journal.folder, uri, "quickstart", journal.spec)
        journal.start("a")
        journal.run("a", 0, CURVE)
        tracker.start()
        begun = time.monotonic()
        left = tracker.close("finished", timeout_s=3)
    assert time.monotonic() - begun < 10
    assert len(left) == 1
    assert uri in left[0]
    assert "1 runs" in left[0] or "of 1 run" in left[0]


def test_layers_are_an_artifact_of_their_run(journal, store_uri) -> None:
    journal.start("a")
    spent = {"step": 1, "rollouts": 128, "tokens": 500, "seconds": 1.0}
    metrics = {"strategy/layer_mae/00": 0.2, "strategy/layer_mae/01": 0.3}
    journal.event("a", "step", seed=0, **spent, metrics=metrics)
    journal.run("a", 0, CURVE)
    journal.finish("a")
    track(journal, store_uri)
    (run,) = children(store_uri)
    page = connect(store_uri).download_artifacts(run.info.run_id, "layers.html")
    assert "layer 1, step 1: 0.3000" in Path(page).read_text()
