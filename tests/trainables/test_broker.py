"""The broker without Ray: leases in order, cancellation, lost slots, dead trials."""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.worker.outcome import End
from trimtab.slots import broker as module
from trimtab.slots.broker import Broker
from trimtab.sweepdir.journal import Tail


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.05)


def run(scenario: Any) -> Any:
    return asyncio.run(scenario)


def test_jobs_are_served_first_come_first_served(tmp_path):
    async def scenario() -> list[Any]:
        broker = Broker(str(tmp_path))
        generation = await broker.register("a")
        tokens = [await broker.submit(f"t{n}", {"seeds": [0], "n": n}) for n in range(3)]
        served = []
        for _ in tokens:
            job = await broker.next("a", generation)
            served.append(job["n"])
            assert await broker.take(job["token"]) == 0
            await broker.finish("a", job["token"], End("finished"))
        assert await broker.next("a", generation) == "wait"
        return served

    assert run(scenario()) == [0, 1, 2]


def test_an_evaluation_waits_for_the_trial_and_a_step_does_not(tmp_path):
    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        generation = await broker.register("a")
        token = await broker.submit("t", {"seeds": [0]})
        await broker.next("a", generation)
        point = {"rollouts": 8, "metrics": {}}
        assert await broker.push(token, {"event": "step", **point})
        pending = asyncio.create_task(broker.push(token, {"event": "evaluation", **point}))
        events, end = await broker.poll(token, 1)
        while not events:
            events, end = await broker.poll(token, 1)
        assert ([e["event"] for e in events], end) == (["evaluation"], None)
        assert not pending.done()
        await broker.poll(token, 2)
        assert await pending is True

    run(scenario())
    assert [e["event"] for e in Tail(tmp_path).read()] == ["stage", "step", "evaluation"]


def test_a_cancelled_job_stops_at_its_next_event_or_never_starts(tmp_path):
    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        generation = await broker.register("a")
        running, waiting = await broker.submit("r", {"seeds": [0]}), await broker.submit("w", {"seeds": [0]})
        await broker.next("a", generation)
        await broker.cancel(running)
        await broker.cancel(waiting)
        assert await broker.push(running, {"event": "evaluation"}) is False
        await broker.finish("a", running, End("stopped"))
        assert await broker.next("a", generation) == "wait"
        assert (await broker.poll(waiting, 0))[1] == End("stopped")

    run(scenario())


def test_a_slot_that_starts_again_has_lost_its_job_and_its_old_self_goes_home(tmp_path):
    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        old = await broker.register("a")
        token = await broker.submit("t", {"seeds": [0]})
        await broker.next("a", old)
        new = await broker.register("a")
        assert (await broker.poll(token, 0))[1].outcome == "lost"
        assert await broker.push(token, {"event": "step"}) is False
        assert await broker.next("a", old) == "quit"
        assert await broker.next("a", new) == "wait"

    run(scenario())


def test_a_trial_that_fell_silent_frees_its_slot_and_may_lease_again(tmp_path, monkeypatch):
    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        generation = await broker.register("a")
        token = await broker.submit("t", {"seeds": [0]})
        await broker.next("a", generation)
        monkeypatch.setattr(module, "PATIENCE_S", 0.0)
        assert await broker.push(token, {"event": "evaluation"}) is False
        assert not await broker.cancelled(token)
        await broker.finish("a", token, End("stopped"))
        _, end = await broker.poll(token, 1)
        assert (end.outcome, end.cause) == ("lost", "lost")

    run(scenario())


def test_a_silent_trial_in_the_queue_is_not_served(tmp_path, monkeypatch):
    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        generation = await broker.register("a")
        token = await broker.submit("t", {"seeds": [0]})
        monkeypatch.setattr(module, "PATIENCE_S", 0.0)
        assert await broker.next("a", generation) == "wait"
        assert (await broker.poll(token, 0))[1].outcome == "lost"

    run(scenario())


def test_a_lost_slot_says_what_it_had_done(tmp_path):
    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        await broker.expect(["a"])
        assert await broker.lost("a", "died") == "never up"
        generation = await broker.register("a")
        token = await broker.submit("t", {"seeds": [0]})
        await broker.next("a", generation)
        assert await broker.lost("a", "died") == "no lease finished"
        assert (await broker.poll(token, 0))[1] == End("lost", "slot a: died", "lost")
        assert await broker.next("a", generation) == "quit", "what is left of the old processes goes home"
        generation = await broker.register("a")
        token = await broker.submit("t", {"seeds": [0]})
        await broker.next("a", generation)
        assert await broker.take(token) == 0
        await broker.finish("a", token, End("finished"))
        assert await broker.lost("a", "died") == "useful"

    run(scenario())


def test_when_the_last_slot_fails_whoever_waits_is_told_why(tmp_path):
    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        await broker.expect(["a", "b"])
        token = await broker.submit("t", {"seeds": [0]})
        await broker.abandon("a", "a failed: no memory")
        assert (await broker.poll(token, 0))[1] is None
        await broker.abandon("b", "b failed: no memory")
        assert (await broker.poll(token, 0))[1] == End("failed", "b failed: no memory", "lost")
        later = await broker.submit("u", {"seeds": [0]})
        assert (await broker.poll(later, 0))[1].outcome == "failed"

    run(scenario())


def test_a_failed_slot_gets_no_further_job(tmp_path):
    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        await broker.expect(["a", "b"])
        generation = await broker.register("a")
        await broker.abandon("a", "its engine died")
        await broker.submit("t", {"seeds": [0]})
        assert await broker.next("a", generation) == "quit"

    run(scenario())


def test_closing_sends_every_slot_home(tmp_path):
    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        generation = await broker.register("a")
        token = await broker.submit("t", {"seeds": [0]})
        await broker.close()
        assert await broker.next("a", generation) == "quit"
        assert (await broker.poll(token, 0))[1] == End("stopped")

    run(scenario())


SHARED = {"seeds": [0, 1, 2], "shared": True}


async def two_slots(broker: Broker, payload: Any) -> tuple[int, Any]:
    """Let slot a run a job; return its token and what slot b gets."""
    a, b = await broker.register("a"), await broker.register("b")
    token = await broker.submit("t", payload)
    await broker.next("a", a)
    assert await broker.take(token) == 0
    return token, await broker.next("b", b)


def test_a_slot_that_would_idle_runs_seeds_of_another_ones_trial_which_reads_them_in_order(tmp_path):
    async def scenario() -> list[tuple[str, int]]:
        broker = Broker(str(tmp_path))
        token, job = await two_slots(broker, SHARED)
        assert job["token"] == token
        assert await broker.take(token) == 1
        assert await broker.push(token, {"event": "evaluation", "seed": 1}), "nobody waits for what is ahead"
        await broker.push(token, {"event": "step", "seed": 0})
        await broker.push(token, {"event": "run_finished", "seed": 1})
        assert await broker.take(token) == 2
        await broker.push(token, {"event": "step", "seed": 2})
        assert [e["seed"] for e in (await broker.poll(token, 0))[0]] == [0]
        await broker.push(token, {"event": "run_finished", "seed": 0})
        assert await broker.take(token) is None
        await broker.finish("a", token, End("finished"))
        events, end = await broker.poll(token, 0)
        assert end is None, "slot b still runs a seed"
        await broker.push(token, {"event": "run_finished", "seed": 2})
        await broker.finish("b", token, End("finished"))
        events, end = await broker.poll(token, 0)
        assert end == End("finished")
        return [(e["event"], e["seed"]) for e in events]

    assert run(scenario()) == [
        ("step", 0),
        ("run_finished", 0),
        ("evaluation", 1),
        ("run_finished", 1),
        ("step", 2),
        ("run_finished", 2),
    ]


@pytest.mark.parametrize("payload", [{"seeds": [0, 1]}, {"seeds": [0], "shared": True}])
def test_a_slot_idles_where_nothing_may_be_shared_or_nothing_is_left(tmp_path, payload):
    assert run(two_slots(Broker(str(tmp_path)), payload))[1] == "wait"


def test_a_slot_that_lost_a_race_for_a_job_waits_for_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "POLL_S", 5.0)

    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        waiting = [broker.next(slot, await broker.register(slot)) for slot in ("a", "b")]
        tasks = [asyncio.create_task(one) for one in waiting]
        await asyncio.sleep(0)  # both wait
        await broker.submit("t", SHARED)
        answers = await asyncio.gather(*tasks)
        assert sorted(type(answer).__name__ for answer in answers) == ["dict", "str"]

    run(scenario())


def test_a_job_that_one_of_two_slots_lost_ends_when_the_other_has_let_go(tmp_path):
    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        token, _ = await two_slots(broker, SHARED)
        assert await broker.take(token) == 1
        await broker.push(token, {"event": "run_finished", "seed": 1})
        await broker.lost("a", "died")
        assert (await broker.poll(token, 0)) == ([], None), (
            "slot b may still write what a new lease would read"
        )
        assert await broker.take(token) is None
        await broker.finish("b", token, End("finished"))
        events, end = await broker.poll(token, 0)
        assert end == End("lost", "slot a: died", "lost")
        assert [e["seed"] for e in events] == [1], "what had finished ahead is not run again"
        await broker.finish("a", token, End("finished"))
        assert (await broker.poll(token, 0))[1] == end, "what the lost slot says late changes nothing"

    run(scenario())


def test_a_failure_in_one_slot_stops_the_other_and_is_how_the_trial_ends(tmp_path):
    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        token, _ = await two_slots(broker, SHARED)
        failed = End("failed", "loss is NaN", "diverged")
        await broker.finish("b", token, failed)
        assert await broker.push(token, {"event": "evaluation", "seed": 0}) is False
        await broker.finish("a", token, End("stopped"))
        assert (await broker.poll(token, 0))[1] == failed

    run(scenario())


@given(st.permutations([0] * 3 + [1] * 3 + [2] * 3))
def test_events_are_read_seed_by_seed_however_they_come(seeds):
    """Each seed's last event ends its run."""

    async def scenario(folder: str) -> None:
        broker = Broker(folder)
        token = await broker.submit("t", SHARED)
        count = dict.fromkeys(SHARED["seeds"], 0)
        for seed in seeds:
            count[seed] += 1
            kind = "run_finished" if count[seed] == 3 else "step"
            await broker.push(token, {"event": kind, "seed": seed, "step": count[seed]})
        events, _ = await broker.poll(token, 0)
        assert [(e["seed"], e["step"]) for e in events] == [(s, k) for s in (0, 1, 2) for k in (1, 2, 3)]

    with tempfile.TemporaryDirectory() as folder:
        run(scenario(folder))
