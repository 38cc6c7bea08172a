"""The tracker: a store that is down, slow, full or emptied, a resumed driver; no value is lost or doubled."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from services import answers
from slow_server import SlowServer
from speed import patience, wait_until
from tracked import CURVE, children, history, runs_of, track

from trimtab.tracking.catch_up import catch_up
from trimtab.tracking.operations import LogPoints
from trimtab.tracking.send import Sender
from trimtab.tracking.tracker import Tracker
from trimtab.watch.ui import command


def test_a_server_that_is_down_costs_nothing_and_is_caught_up(journal, store_uri, tmp_path, capsys) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    tracker = Tracker(journal.folder, uri, "v05_small", journal.spec)
    tracker.start()
    journal.start("a")
    journal.run("a", 0, CURVE)
    wait_until(lambda: tracker.problem is not None, 30)
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store_uri, "--workers", "1",
         "--host", "127.0.0.1", "--port", str(port), "--artifacts-destination", str(tmp_path / "artifacts")],
        env={**__import__("os").environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path,
    )  # fmt: skip
    try:
        left = tracker.close("finished", timeout_s=patience(150))
        assert left == []
    finally:
        server.terminate()
        server.wait(timeout=patience(30))
    assert capsys.readouterr().out == "", "the terminal belongs to the progress display"
    (run,) = children(store_uri)
    assert history(store_uri, run, "by_rollouts/accuracy") == [(1280 * i, a) for i, a in enumerate(CURVE)]


def test_what_could_not_be_sent_is_said(journal) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
        tracker = Tracker(journal.folder, uri, "v05_small", journal.spec)
        journal.start("a")
        journal.run("a", 0, CURVE)
        tracker.start()
        begun = time.monotonic()
        left = tracker.close("finished", timeout_s=3)
    assert time.monotonic() - begun < patience(10)
    assert len(left) == 1
    assert uri in left[0]
    assert "1 runs" in left[0] or "of 1 run" in left[0]


def rows(store_uri: str) -> int:
    """Return the metric values in the store, including those that MLflow's API hides."""
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
    # The differences had to wait for the reference, so they lie behind the mark of the other values.
    assert len(history(store_uri, candidate, "by_rollouts/accuracy_minus_dapo")) == len(CURVE)


def test_what_was_sent_before_the_store_failed_is_marked(journal, store_uri, monkeypatch) -> None:
    journal.start("a")
    journal.run("a", 0, CURVE)
    log = Sender._log

    def full(self, operation, run):
        log(self, operation, run)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Sender, "_log", full)
    tracker = Tracker(journal.folder, store_uri, "v05_small", journal.spec)
    tracker.start()
    wait_until(lambda: tracker.problem is not None, 120)
    (marks,) = json.loads((journal.folder / "tracked.json").read_text()).values()
    assert tracker.close("killed", timeout_s=0) != []
    assert marks["a/0"]["own"] > 0, "the run was opened"


def test_a_store_that_was_emptied_gets_everything_again(journal, store_uri, empty_store) -> None:
    journal.start("a")
    journal.run("a", 0, CURVE)
    journal.finish("a")
    track(journal, store_uri)
    whole = rows(store_uri)
    shutil.copy(empty_store, store_uri.removeprefix("sqlite:///"))
    track(journal, store_uri)
    assert rows(store_uri) == whole


@pytest.mark.slow
def test_a_real_server_killed_in_the_middle_loses_nothing(journal, store_uri, tmp_path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    server = serve(store_uri, port, tmp_path)
    tracker = Tracker(journal.folder, uri, "v05_small", journal.spec)
    tracker.start()
    journal.start("a", 0)
    journal.run("a", 0, CURVE[:4], status=None)
    try:
        wait_until(lambda: rows(store_uri) > 20, 120)
        kill(server)
        journal.run("a", 0, CURVE)
        journal.finish("a")
        wait_until(lambda: tracker.problem is not None, 120)
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
    """It carries out a request but never answers, or carries it out after its client has given up."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", f"{patience(3):.0f}")
    port = free_port()
    server = serve(store_uri, port, tmp_path)
    slow = SlowServer(f"http://127.0.0.1:{port}", stalls, late)
    tracker = Tracker(journal.folder, slow.uri, "v05_small", journal.spec)
    try:
        wait_until(lambda: answers(f"{slow.behind}/health"), 120)
        journal.start("a", 0)
        for seed in (0, 1):
            journal.run("a", seed, CURVE)
        journal.finish("a")
        tracker.start()
        wait_until(lambda: slow.kept >= 2, 120)
        slow.freed.set()
        assert tracker.close("finished", timeout_s=patience(150)) == []
    finally:
        slow.shutdown()
        kill(server)
    assert len(runs_of(store_uri)) == 3, "a request that was given up made a second run"
    for run in children(store_uri):
        assert run.info.status == "FINISHED"
        assert [value for _, value in history(store_uri, run, "validation/accuracy")] == CURVE


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(store_uri: str, port: int, folder: Path) -> subprocess.Popen[bytes]:
    """Run a real MLflow server over the store, in a session of its own so that all of it can be killed."""
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
