"""Real kills in the middle of a trial: the slot comes back, the trial goes on from its checkpoint."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import ray
from slot_bench import steps, timeless

pytestmark = pytest.mark.slow


def kill_engine(bench: Any) -> None:
    pid = ray.get(bench.slots.engines[0].__ray_call__.remote(lambda _: os.getpid()))
    os.kill(pid, signal.SIGKILL)


def kill_learner(bench: Any) -> None:
    from ray.util.state import list_workers

    (pid,) = {
        worker.pid
        for worker in list_workers(detail=True, limit=1000)
        if worker.is_alive and _command(worker.pid).startswith("ray::RayTrainWorker")
    }
    os.kill(pid, signal.SIGKILL)


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read()
    except OSError:  # ended meanwhile
        return ""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kill", [kill_engine, kill_learner])
def test_a_killed_half_of_a_slot_costs_the_steps_since_the_checkpoint(bench, tmp_path, kill):
    config = bench.config(steps=8, checkpoint_every=2)
    straight = bench.run(config, [0], tmp_path / "straight")
    token = bench.submit(config, [0], tmp_path / "killed")
    seen = []
    for event in bench.follow(token):
        seen.append(event)
        if event["event"] == "step" and event["step"] == 5:
            kill(bench)
    assert seen[-1]["outcome"] == "lost"
    # What Tune's trial does: it leases again and resumes.
    resumed = bench.run(config, [0], tmp_path / "killed")
    assert resumed[-1]["outcome"] == "finished"
    first = steps(resumed)[0]["step"]
    assert first in (5, 7), "the step after the newest whole checkpoint"
    assert [e for e in timeless(resumed) if e["step"] >= first] == [
        e for e in timeless(straight) if e["step"] >= first
    ]
