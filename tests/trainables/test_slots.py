"""Cold slots, replaced slots, and what is left of a slot when it ends."""

from __future__ import annotations

from typing import Any

import psutil
import pytest
import ray
from slot_bench import Bench, start_bench, steps, timeless
from speed import patience, wait_until

from trainables.config import EngineConfig, LearnerConfig
from trimtab.slots.host import COLD

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
        world.slots.close(patience(60))


def alive(here: str) -> set[str]:
    """Ids of a cluster's living actors. The address is explicit: others may run a Ray here too."""
    from ray.util.state import list_actors

    return {actor.actor_id for actor in list_actors(here, limit=10_000) if actor.state != "DEAD"}


def groups(here: str) -> set[str]:
    from ray.util.state import list_placement_groups

    found = list_placement_groups(here, limit=10_000)
    return {group.placement_group_id for group in found if group.state != "REMOVED"}


def workers() -> set[int]:
    mine = psutil.Process().children(recursive=True)
    return {p.pid for p in mine if "RayTrainWorker" in " ".join(_command(p))}


def test_two_slots_share_the_seeds_of_a_trial_and_leave_nothing_when_closed_in_mid_run(bench, tmp_path):
    here = ray.get_runtime_context().gcs_address
    before, groups_before, workers_before = alive(here), groups(here), workers()
    engine = EngineConfig(kind="transformers", max_model_len=64)
    world = start_bench(tmp_path, bench.model, LearnerConfig(lr=1e-4), engine, count=2)
    try:
        check_that_seeds_taken_over_change_no_result(world)
        token = world.submit(world.config(steps=500), [0])
        for event in world.follow(token):
            if event["event"] == "step":
                break
        assert len(workers()) == len(workers_before) + 2
    finally:
        world.slots.close(patience(60))
    ray.kill(world.broker)
    # Ray ends processes in its own time.
    wait_until(lambda: alive(here) <= before, 60, "actors are left")
    wait_until(lambda: groups(here) <= groups_before, 60, "placement groups are left")
    wait_until(lambda: workers() <= workers_before, 60, "processes are left")
    assert steps(bench.run(bench.config(steps=1), [0])), "the slot beside it is untouched"


def check_that_seeds_taken_over_change_no_result(world: Bench) -> None:
    config, seeds = world.config(steps=8), [0, 1, 2]
    tokens = [world.submit(config, seeds) for _ in range(2)]
    for token in tokens:  # each waits for its trial: both slots are up
        next(world.follow(token))
    alone, _ = [list(world.follow(token)) for token in tokens]
    shared = list(world.follow(world.submit(config, seeds, shared=True)))
    assert timeless(shared) == timeless(alone), "and in the same order"
    assert {lease["slot"] for lease in leases(alone)} < {lease["slot"] for lease in leases(shared)}


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
