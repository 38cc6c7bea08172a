"""Cold slots, replaced slots, and what is left of a slot when it ends."""

from __future__ import annotations

from typing import Any

import psutil
import pytest
import ray
from slot_bench import start_bench, steps, timeless

from trainables.config import EngineConfig, LearnerConfig
from trainables.slots.host import COLD

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def leases(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == "lease"]


def test_a_cold_slot_gives_the_metrics_of_a_warm_one_and_serves_one_lease(bench, tmp_path):
    warm = bench.run(bench.config(), [0])
    world = start_bench(tmp_path, bench.model, bench.learner, bench.engine, leases=COLD)
    try:
        for _ in range(2):
            cold = world.run(world.config(), [0])
            assert timeless(cold) == timeless(warm)
            assert [lease["lease"] for lease in leases(cold)] == [1]
            assert {lease["checksum"] for lease in leases(cold)} == {
                lease["checksum"] for lease in leases(warm)
            }
    finally:
        world.slots.close(60)


def test_seeds_that_an_idle_slot_takes_over_change_no_result(bench, tmp_path):
    engine = EngineConfig(kind="transformers", max_model_len=64)
    world = start_bench(tmp_path, bench.model, LearnerConfig(lr=1e-4), engine, count=2)
    try:
        config, seeds = world.config(steps=8), [0, 1, 2]
        tokens = [world.submit(config, seeds) for _ in range(2)]
        for token in tokens:  # each waits for its trial: both slots are up
            next(world.follow(token))
        alone, _ = [list(world.follow(token)) for token in tokens]
        shared = list(world.follow(world.submit(config, seeds, shared=True)))
        assert timeless(shared) == timeless(alone), "and in the same order"
        assert {lease["slot"] for lease in leases(alone)} < {lease["slot"] for lease in leases(shared)}
    finally:
        world.slots.close(60)


def test_a_slot_that_is_closed_in_mid_run_leaves_nothing(bench, tmp_path):
    from ray.util.state import list_actors, list_placement_groups

    # Said explicitly: others may run a Ray on this machine too.
    here = ray.get_runtime_context().gcs_address

    def alive() -> set[str]:
        return {actor.actor_id for actor in list_actors(here, limit=10_000) if actor.state != "DEAD"}

    def groups() -> set[str]:
        found = list_placement_groups(here, limit=10_000)
        return {group.placement_group_id for group in found if group.state != "REMOVED"}

    def workers() -> set[int]:
        mine = psutil.Process().children(recursive=True)
        return {p.pid for p in mine if "RayTrainWorker" in " ".join(_command(p))}

    before, groups_before, workers_before = alive(), groups(), workers()
    engine = EngineConfig(kind="transformers", max_model_len=64)
    world = start_bench(tmp_path, bench.model, LearnerConfig(lr=1e-4), engine)
    token = world.submit(world.config(steps=500), [0])
    for event in world.follow(token):
        if event["event"] == "step":
            break
    assert len(workers()) > len(workers_before)
    world.slots.close(60)
    ray.kill(world.broker)
    assert wait_until(lambda: alive() <= before), "actors are left"
    assert wait_until(lambda: groups() <= groups_before), "placement groups are left"
    assert wait_until(lambda: workers() <= workers_before), "processes are left"
    assert steps(bench.run(bench.config(steps=1), [0])), "the slot beside it is untouched"


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def wait_until(condition: Any, seconds: float = 60) -> bool:
    """Ray ends processes in its own time."""
    import time

    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if condition():
            return True
        time.sleep(0.2)
    return False
