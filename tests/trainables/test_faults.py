"""Real kills in the middle of a trial: the slot comes back, the trial goes on from its checkpoint."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from slot_bench import steps, timeless

from trimtab.slots.client import LEASES


def engine(bench: Any) -> int:
    return int(ray.get(bench.slots.engines[0].__ray_call__.remote(lambda _: os.getpid())))


def learner(bench: Any) -> int:
    (pid,) = [p.pid for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in _title(p)]
    return pid


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # ended meanwhile
        return ""


def reset(event: Any) -> bool:
    return event["event"] == "stage" and event["stage"] == "resetting"


def first_evaluation(event: Any) -> bool:
    return event["event"] == "stage" and event["stage"] == "evaluating"


def step_5(event: Any) -> bool:
    return event["event"] == "step" and event["step"] == 5


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "here",
    [
        step_5,
        pytest.param(reset, marks=pytest.mark.slow),
        pytest.param(first_evaluation, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("half", [engine, learner])
def test_a_killed_half_of_a_slot_costs_the_steps_since_the_checkpoint(bench, tmp_path, half, here):
    config = bench.config(steps=8, checkpoint_every=2)
    straight = bench.run(config, [0], tmp_path / "straight")
    victim = half(bench)
    token = bench.submit(config, [0], tmp_path / "killed")
    seen = []
    for event in bench.follow(token):
        if here(event) and not any(here(earlier) for earlier in seen):
            os.kill(victim, signal.SIGKILL)
        seen.append(event)
    assert seen[-1]["outcome"] == "lost"
    # What Tune's trial does: it leases again and resumes.
    resumed = bench.run(config, [0], tmp_path / "killed")
    assert resumed[-1]["outcome"] == "finished"
    first = steps(resumed)[0]["step"]
    assert first % 2 == 1, "the step after a checkpoint"
    assert first >= len(steps(seen)) - 1, "and after the newest whole one"
    assert [e for e in timeless(resumed) if e["step"] >= first] == [
        e for e in timeless(straight) if e["step"] >= first
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("half", [engine, learner])
def test_a_half_that_dies_in_the_last_save_or_between_trials_changes_no_result(bench, tmp_path, half):
    config = bench.config(checkpoint_every=2)
    straight = timeless(bench.run(config, [0], tmp_path / "straight"))
    victim = half(bench)
    seen = []
    for event in bench.follow(bench.submit(config, [0], tmp_path / "killed")):
        if event["event"] == "stage" and event["stage"] == "saving":
            os.kill(victim, signal.SIGKILL)
        seen.append(event)
    # The save itself may be over before the signal arrives.
    assert seen[-1]["outcome"] in ("lost", "finished")
    whole = {json.dumps(event) for event in timeless(seen + to_the_end(bench, config, tmp_path / "killed"))}
    assert whole == {json.dumps(event) for event in straight}
    os.kill(half(bench), signal.SIGKILL)
    assert timeless(to_the_end(bench, config, tmp_path / "next")) == straight


def to_the_end(bench: Any, config: Any, output: Path) -> list[dict[str, Any]]:
    """Lease as Tune's trial does: again when the lease is lost, a limited number of times."""
    events: list[dict[str, Any]] = []
    for _ in range(LEASES):
        events += bench.run(config, [0], output)
        if events[-1]["outcome"] == "finished":
            return events
    raise AssertionError(f"{LEASES} leases were lost: {events[-1]}")
