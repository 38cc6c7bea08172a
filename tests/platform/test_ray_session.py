"""A Ray that does not come up: tried again with nothing left of the first attempt, then one message."""

from __future__ import annotations

import subprocess

import psutil
import pytest

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
