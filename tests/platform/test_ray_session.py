"""A Ray that does not come up: tried again with nothing left of the first attempt, then one message."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest
from speed import patience

from trimtab.errors import ClusterError
from trimtab.session import own_ray


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes `ray.init` fail as Ray does on a crowded machine, leaving a process; pids of those processes."""
    import ray

    left: list[int] = []

    def init(**options: object) -> None:
        assert options["num_cpus"] == 2
        if len(left) < failures:
            left.append(subprocess.Popen(["sleep", "600"]).pid)
            raise Exception("The current node timed out during startup.")

    failures = 2
    monkeypatch.setattr(ray, "init", init)
    # The one that runs in this process belongs to other tests.
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return left


def test_a_start_that_fails_is_tried_again_with_nothing_left_of_it(attempts: list[int]) -> None:
    own_ray.start_ray(num_cpus=2)
    assert len(attempts) == 2
    assert not any(psutil.pid_exists(pid) for pid in attempts)


def test_a_start_that_keeps_failing_is_one_message(
    attempts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_ray, "TRIES", 2)
    with pytest.raises(ClusterError, match=r"did not start .* in 2 attempts: The current node timed out"):
        own_ray.start_ray(num_cpus=2)
    assert not any(psutil.pid_exists(pid) for pid in attempts)


RELEASES_WHILE_RAY_SHUTS_DOWN = """
import gc, sys, threading, time
import ray
from trimtab.remote.disconnect import shut_ray_down

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
references = [ray.put(n) for n in range(400)]
begin, over = threading.Event(), threading.Event()

def collect():
    begin.wait()
    while references and not over.is_set():
        if gc.isenabled():  # as the collector does, whichever thread it happens to run in
            references.pop()
        time.sleep(0.002)

thread = threading.Thread(target=collect)
thread.start()
begin.set()
{"plain": ray.shutdown, "ours": shut_ray_down}[sys.argv[1]]()
over.set()
thread.join()
print("ended", len(references) > 0, gc.isenabled())
"""


def test_no_garbage_is_collected_while_ray_shuts_down() -> None:
    """A reference that another thread releases at that time ends the process with 1 and without a word."""
    command = [sys.executable, "-c", RELEASES_WHILE_RAY_SHUTS_DOWN, "ours"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience(120))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ended", "True", "True"]
