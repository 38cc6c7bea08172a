"""The tracker: journal to a real MLflow store on SQLite."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from slow_server import SlowServer

from trimtab import records
from trimtab.spec import SweepSpec
from trimtab.tracking import Tracker
from trimtab.tracking.catch_up import catch_up
from trimtab.tracking.operations import LogPoints, OpenRun
from trimtab.tracking.send import Sender
from trimtab.tracking.store import connect
from trimtab.tracking.translate import MAX_METRICS, Translator
from trimtab.ui import command

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


def test_curves_of_seeds_that_run_at_once_are_whole(journal, store_uri) -> None:
    journal.start("a")
    for index, accuracy in enumerate(CURVE[:-2]):
        for seed in (0, 1, 2):
            journal.point("a", seed, index, accuracy + seed / 100)
    track(journal, store_uri, "killed")
    for index, accuracy in list(enumerate(CURVE))[-2:]:
        for seed in (2, 0, 1):
            journal.point("a", seed, index, accuracy + seed / 100)
    track(journal, store_uri, "killed")
    for run in children(store_uri):
        shift = int(run.data.tags["trimtab.seed"]) / 100
        whole = [(10 * i, pytest.approx(accuracy + shift)) for i, accuracy in enumerate(CURVE)]
        assert history(store_uri, run, "validation/accuracy") == whole


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
        "a",
        "run_finished",
        seed=0,
        status="failed",
        error="boom",
        cause="diverged",
        traceback="Traceback: boom here",
    )
    journal.finish("a", "failed", "boom")
    track(journal, store_uri)
    (run,) = children(store_uri)
    assert run.info.status == "FAILED"
    assert run.data.tags["trimtab.error"] == "boom"
    assert run.data.tags["trimtab.cause"] == "diverged"
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
    operations = Translator("dapo", spec.seeds).feed(records.Tail(journal.folder).read_at())
    batches = [operation for operation in operations if isinstance(operation, LogPoints)]
    assert isinstance(operations[0], OpenRun)
    assert MAX_METRICS - 6 < max(len(batch.points) for batch in batches) <= MAX_METRICS
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


def rows(store_uri: str) -> int:
    """Metric values in the store, whatever MLflow's API would hide."""
    with sqlite3.connect(store_uri.removeprefix("sqlite:///")) as database:
        return int(database.execute("select count(*) from metrics").fetchone()[0])


def test_a_resumed_driver_sends_nothing_twice(journal, store_uri, monkeypatch) -> None:
    journal.start("a", 1)
    journal.run("a", 0, CURVE)
    journal.start("b", 0)
    journal.run("b", 0, CURVE[:3], status=None)
    track(journal, store_uri, "killed")
    before = rows(store_uri)
    sent: list[LogPoints] = []
    log = Sender._log
    monkeypatch.setattr(Sender, "_log", lambda self, op, run: (sent.append(op), log(self, op, run)))
    track(journal, store_uri, "killed")
    assert sent == []
    journal.run("b", 0, CURVE)
    journal.finish("b")
    track(journal, store_uri)
    names = [(op.key, point.name, point.step) for op in sent for point in op.points]
    assert len(names) == len(set(names))
    assert rows(store_uri) - before == len(names), "the store took every value as a new one"
    (candidate,) = [run for run in children(store_uri) if run.data.tags["trimtab.trial"] == "a"]
    # The differences to the reference had to wait for it, behind the mark of the rest.
    assert len(history(store_uri, candidate, "by_rollouts/accuracy_minus_dapo")) == len(CURVE)


def test_a_step_that_is_run_again_is_one_point(journal, store_uri) -> None:
    journal.start("a")
    journal.run("a", 0, CURVE[:4], status=None)
    journal.start("a")
    journal.run("a", 0, CURVE)
    journal.finish("a")
    track(journal, store_uri)
    (run,) = children(store_uri)
    for name, start in (("validation/accuracy", 0), ("train/reward", 1)):
        assert [step for step, _ in history(store_uri, run, name)] == [
            10 * i for i in range(start, len(CURVE))
        ]


def test_a_store_that_was_emptied_gets_everything_again(journal, store_uri, empty_store) -> None:
    journal.start("a")
    journal.run("a", 0, CURVE)
    journal.finish("a")
    track(journal, store_uri)
    whole = rows(store_uri)
    shutil.copy(empty_store, store_uri.removeprefix("sqlite:///"))
    track(journal, store_uri)
    assert rows(store_uri) == whole


def test_the_parent_says_where_it_came_from_and_runs_what_they_read(journal, store_uri) -> None:
    journal.start("a")
    data = {
        "train": {"name": "addition", "source": "addition, data_seed 0", "problems": 512, "sha256": "ab" * 32}
    }
    journal.event("a", "data", seed=0, data=data)
    journal.run("a", 0, CURVE)
    journal.event("node-here", "system", metrics={"cpu_utilization_percentage": 50.0})
    journal.finish("a")
    parent = track(journal, store_uri).parent_run_id
    client = connect(store_uri)
    environment = json.loads(Path(client.download_artifacts(parent, "environment.json")).read_text())
    assert environment["packages"]["pydantic"] == __import__("pydantic").__version__
    git = json.loads(Path(client.download_artifacts(parent, "git.json")).read_text())
    assert len(git["trimtab"]["commit"]) == 40
    assert client.get_run(parent).data.metrics["system/here/cpu_utilization_percentage"] == 50.0
    (run,) = children(store_uri)
    (found,) = client.get_run(run.info.run_id).inputs.dataset_inputs
    assert (found.dataset.name, found.tags[0].value) == ("addition-train", "train")
    assert json.loads(found.dataset.source)["sha256"] == "ab" * 32


@pytest.mark.slow
def test_a_real_server_killed_in_the_middle_loses_nothing(journal, store_uri, tmp_path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    server = serve(store_uri, port, tmp_path)
    tracker = Tracker(journal.folder, uri, "quickstart", journal.spec)
    tracker.start()
    journal.start("a", 0)
    journal.run("a", 0, CURVE[:4], status=None)
    try:
        wait_for(lambda: rows(store_uri) > 20)
        kill(server)
        journal.run("a", 0, CURVE)
        journal.finish("a")
        wait_for(lambda: tracker.problem is not None)
        assert len(tracker.close("finished", timeout_s=1)) == 1, "the sweep ended while its server was down"
        server = serve(store_uri, port, tmp_path)
        assert catch_up(journal.folder, journal.spec, uri) == []
    finally:
        kill(server)
    (run,) = children(store_uri)
    assert run.info.status == "FINISHED"
    for name in ("by_rollouts/accuracy", "validation/accuracy"):
        points = history(store_uri, run, name)
        assert [value for _, value in points] == CURVE, "no hole and no duplicate"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stalls", "late"), [("runs/create", False), ("runs/create", True), ("runs/log-batch", False)]
)
def test_a_slow_server_has_everything_once(
    journal, store_uri, tmp_path, monkeypatch, stalls: str, late: bool
) -> None:
    """It does what it is asked to and never says so, or does it after its client has given up."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    port = free_port()
    server = serve(store_uri, port, tmp_path)
    slow = SlowServer(f"http://127.0.0.1:{port}", stalls, late)
    tracker = Tracker(journal.folder, slow.uri, "quickstart", journal.spec)
    try:
        wait_for(lambda: answers(f"{slow.behind}/health"))
        journal.start("a", 0)
        for seed in (0, 1):
            journal.run("a", seed, CURVE)
        journal.finish("a")
        tracker.start()
        wait_for(lambda: slow.kept >= 2)
        slow.freed.set()
        assert tracker.close("finished", timeout_s=150) == []
    finally:
        slow.shutdown()
        kill(server)
    assert len(runs_of(store_uri)) == 3, "a request that was given up made a second run"
    for run in children(store_uri):
        assert run.info.status == "FINISHED"
        assert [value for _, value in history(store_uri, run, "validation/accuracy")] == CURVE


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(store_uri: str, port: int, folder: Path) -> subprocess.Popen[bytes]:
    """A real MLflow server over the store, in a session of its own so that all of it can be killed."""
    return subprocess.Popen(
        command(store_uri, port),
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill(server: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


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


def test_what_was_sent_before_the_store_failed_is_marked(journal, store_uri, monkeypatch) -> None:
    journal.start("a")
    journal.run("a", 0, CURVE)
    log = Sender._log

    def full(self, operation, run):
        log(self, operation, run)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Sender, "_log", full)
    tracker = Tracker(journal.folder, store_uri, "quickstart", journal.spec)
    tracker.start()
    wait_for(lambda: tracker.problem is not None)
    (marks,) = json.loads((journal.folder / "tracked.json").read_text()).values()
    assert tracker.close("killed", timeout_s=0) != []
    assert marks["a/0"]["own"] > 0, "the run was opened"
