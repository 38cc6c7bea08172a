"""The broker without Ray: leases in order, cancellation, lost slots, dead trials."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from trainables.slots import broker as module
from trainables.slots.broker import Broker, End
from trimtab.records import Tail


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.05)


def run(scenario: Any) -> Any:
    return asyncio.run(scenario)


def test_jobs_are_served_first_come_first_served(tmp_path):
    async def scenario() -> list[Any]:
        broker = Broker(str(tmp_path))
        generation = await broker.register("a")
        tokens = [await broker.submit(f"t{n}", {"n": n}) for n in range(3)]
        served = []
        for _ in tokens:
            job = await broker.next("a", generation)
            served.append(job["n"])
            await broker.finish(job["token"], End("finished"))
        assert await broker.next("a", generation) == "wait"
        return served

    assert run(scenario()) == [0, 1, 2]


def test_an_evaluation_waits_for_the_trial_and_a_step_does_not(tmp_path):
    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        generation = await broker.register("a")
        token = await broker.submit("t", {})
        await broker.next("a", generation)
        assert await broker.push(token, {"event": "step"})
        pending = asyncio.create_task(broker.push(token, {"event": "evaluation"}))
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
        running, waiting = await broker.submit("r", {}), await broker.submit("w", {})
        await broker.next("a", generation)
        await broker.cancel(running)
        await broker.cancel(waiting)
        assert await broker.push(running, {"event": "evaluation"}) is False
        await broker.finish(running, End("stopped"))
        assert await broker.next("a", generation) == "wait"
        assert (await broker.poll(waiting, 0))[1] == End("stopped")

    run(scenario())


def test_a_slot_that_starts_again_has_lost_its_job_and_its_old_self_goes_home(tmp_path):
    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        old = await broker.register("a")
        token = await broker.submit("t", {})
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
        token = await broker.submit("t", {})
        await broker.next("a", generation)
        monkeypatch.setattr(module, "PATIENCE_S", 0.0)
        assert await broker.push(token, {"event": "evaluation"}) is False
        assert not await broker.cancelled(token)
        await broker.finish(token, End("stopped"))
        _, end = await broker.poll(token, 1)
        assert (end.outcome, end.cause) == ("lost", "lost")

    run(scenario())


def test_a_silent_trial_in_the_queue_is_not_served(tmp_path, monkeypatch):
    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        generation = await broker.register("a")
        token = await broker.submit("t", {})
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
        token = await broker.submit("t", {})
        await broker.next("a", generation)
        assert await broker.lost("a", "died") == "no lease finished"
        assert (await broker.poll(token, 0))[1] == End("lost", "slot a: died", "lost")
        assert await broker.next("a", generation) == "quit", "what is left of the old processes goes home"
        generation = await broker.register("a")
        token = await broker.submit("t", {})
        await broker.next("a", generation)
        await broker.finish(token, End("finished"))
        assert await broker.lost("a", "died") == "useful"

    run(scenario())


def test_when_the_last_slot_fails_whoever_waits_is_told_why(tmp_path):
    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        await broker.expect(["a", "b"])
        token = await broker.submit("t", {})
        await broker.abandon("a", "a failed: no memory")
        assert (await broker.poll(token, 0))[1] is None
        await broker.abandon("b", "b failed: no memory")
        assert (await broker.poll(token, 0))[1] == End("failed", "b failed: no memory", "lost")
        later = await broker.submit("u", {})
        assert (await broker.poll(later, 0))[1].outcome == "failed"

    run(scenario())


def test_a_failed_slot_gets_no_further_job(tmp_path):
    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        await broker.expect(["a", "b"])
        generation = await broker.register("a")
        await broker.abandon("a", "its engine died")
        await broker.submit("t", {})
        assert await broker.next("a", generation) == "quit"

    run(scenario())


def test_closing_sends_every_slot_home(tmp_path):
    async def scenario() -> None:
        broker = Broker(str(tmp_path))
        generation = await broker.register("a")
        token = await broker.submit("t", {})
        await broker.close()
        assert await broker.next("a", generation) == "quit"
        assert (await broker.poll(token, 0))[1] == End("stopped")

    run(scenario())
