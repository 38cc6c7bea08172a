"""The broker: one async actor that lends slots to trials and carries their events back. Pure asyncio.

A trial submits a job and polls for its events; a slot asks for its next job, takes one seed of it after
another and pushes events. A slot that would idle joins a job that has seeds left and may be shared: the trial
still reads its events seed by seed, in the order of its seeds. The broker also writes the sweep's journal, so
that it has one writer. It holds no GPU and computes nothing.

Who may be gone, and how it shows: a trial that stops polling for `PATIENCE_S` loses its slot (it leases again
when it comes back); a slot whose worker died registers again under a new generation, and the job it had is
lost. A stale slot always reads "stop".
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trainables.worker.outcome import End
from trimtab.sweepdir import journal

PATIENCE_S = 60.0
"""A trial that has not polled for so long is taken for dead."""
POLL_S = 1.0
"""Longest wait of one poll. Tune reuses a trial's actor only if its function ends within two seconds."""


@dataclass
class _Job:
    token: int
    trial: str
    payload: Mapping[str, Any]
    order: list[int]
    """Its seeds, in the order in which the trial reads their events."""
    left: deque[int]
    """Seeds that no slot has taken yet."""
    events: list[dict[str, Any]] = field(default_factory=list)
    ahead: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """Events of seeds whose turn has not come, by seed."""
    read: int = 0
    """Events the trial has acknowledged."""
    seen: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    verdict: End | None = None
    """How the job ends once every slot has let go of it, if not well: no slot still writes to a seed that the
    trial may lease again."""
    end: End | None = None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)


@dataclass
class _Slot:
    generation: int = 0
    job: _Job | None = None
    failure: str | None = None
    registered: int = 0
    """Times that its learner was up since the slot's processes were last replaced altogether."""
    finished: int = 0
    """Leases that ended well since then."""


class Broker:
    """See the module. Methods are called through Ray; every wait is bounded."""

    def __init__(self, sweep_dir: str) -> None:
        self._dir = Path(sweep_dir)
        self._jobs: dict[int, _Job] = {}
        self._queue: deque[_Job] = deque()
        self._slots: dict[str, _Slot] = {}
        self._work = asyncio.Condition()
        self._closing = False
        self._abandoned: str | None = None

    # -- the trial's side ------------------------------------------------------------------------

    async def history(self, trial: str) -> list[journal.Event]:
        """What the journal holds of a trial: one that a killed driver left is continued, not repeated."""
        return journal.read(self._dir, trial)

    async def submit(self, trial: str, payload: Mapping[str, Any]) -> int:
        """Queue a job, first come first served. Returns its token.

        `payload` holds its `seeds`, and `shared`: whether slots that would idle may run some of them.
        """
        seeds = list(payload["seeds"])
        job = _Job(len(self._jobs), trial, payload, seeds, deque(seeds))
        self._jobs[job.token] = job
        self._record(job, {"event": "stage", "stage": "waiting", "seed": None})
        if self._abandoned:
            await self._end(job, End("failed", self._abandoned, "lost"))
            return job.token
        async with self._work:
            self._queue.append(job)
            self._work.notify_all()
        return job.token

    async def poll(self, token: int, cursor: int) -> tuple[list[dict[str, Any]], End | None]:
        """Events from `cursor` on, and how the lease ended once it has.

        Acknowledges what came before `cursor`, and is the trial's sign of life.
        """
        job = self._jobs[token]
        job.seen = time.monotonic()
        async with job.changed:
            job.read = max(job.read, cursor)
            job.changed.notify_all()
            if len(job.events) <= cursor and job.end is None:
                await _wait(job.changed, POLL_S)
        return job.events[cursor:], job.end

    async def cancel(self, token: int) -> None:
        """The trial has ended before its job: the slot stops it at its next event."""
        await self._cancel(self._jobs[token])

    async def cancel_all(self) -> None:
        for job in list(self._jobs.values()):
            await self._cancel(job)

    # -- the slot's side -------------------------------------------------------------------------

    async def register(self, slot: str) -> int:
        """A slot's worker has started. Whatever job the slot had is lost."""
        state = self._slots.setdefault(slot, _Slot())
        state.generation += 1
        state.registered += 1
        why = f"slot {slot}: its learner worker died and was restarted"
        await self._release(state, End("lost", why, "lost"))
        return state.generation

    async def next(self, slot: str, generation: int) -> dict[str, Any] | Literal["wait", "quit"]:
        """The slot's next job, or what to do instead."""
        async with self._work:
            await self._drop_dead()
            idle = not self._queue and not self._closing and not await _wait(self._work, POLL_S)
            state = self._slots[slot]
            if self._closing or state.failure or generation != state.generation:
                return "quit"
            while self._queue:
                job = self._queue.popleft()
                if job.end is None:
                    return self._lend(state, job)
            # Between two trials a slot waits for less: it does not take the next one's place.
            if idle and (shared := self._most_left()):
                return self._lend(state, shared)
        return "wait"

    async def take(self, token: int) -> int | None:
        """The seed of a job to run next; None when its slot is to finish."""
        job = self._jobs[token]
        return None if self._over(job) or not job.left else job.left.popleft()

    async def push(self, token: int, event: dict[str, Any]) -> bool:
        """Enter one event of a running job. Returns False when the run is to stop.

        An evaluation waits until the trial has handed it to Tune and come back, so that a scheduler's verdict
        takes effect before another step is paid for.
        """
        job = self._jobs[token]
        self._record(job, event)
        async with job.changed:
            position = _enter(job, event)
            job.changed.notify_all()
            while event["event"] == "evaluation" and job.read < position and not self._over(job):
                await _wait(job.changed, POLL_S)
        return not self._over(job)

    async def cancelled(self, token: int) -> bool:
        """Whether the trial has ended its job, rather than fallen silent."""
        return self._jobs[token].cancelled

    async def finish(self, slot: str, token: int, end: End) -> None:
        """The slot is done with a job. What a slot says that has lost it meanwhile changes nothing."""
        state, job = self._slots[slot], self._jobs[token]
        if state.job is not job:
            return
        state.finished += end.outcome == "finished"
        if end.outcome == "finished" and job.left:
            end = End("stopped")
        if end.outcome == "stopped" and not job.cancelled:
            end = End("lost", f"the trial did not ask for events for {PATIENCE_S:.0f} s", "lost")
        await self._release(state, end)

    async def lost(self, slot: str, why: str) -> Literal["never up", "no lease finished", "useful"]:
        """The slot's processes are gone or about to be replaced; a job that it had is lost. Returns what the
        slot had done since it was started."""
        state = self._slots[slot]
        await self._release(state, End("lost", f"slot {slot}: {why}", "lost"))
        done: Literal["never up", "no lease finished", "useful"] = "never up"
        if state.registered:
            done = "useful" if state.finished else "no lease finished"
        # Whatever is left of the old processes is sent home.
        state.generation += 1
        state.registered, state.finished = 0, 0
        return done

    async def abandon(self, slot: str, error: str) -> None:
        """A slot has failed for good. With the last one, nothing that waits can ever run."""
        state = self._slots.setdefault(slot, _Slot())
        state.failure = error
        if all(state.failure for state in self._slots.values()):
            self._abandoned = error
            for job in list(self._jobs.values()):
                await self._end(job, End("failed", error, "lost"))
        # The trial of the job that it had leases again, from a slot that lives.
        await self._release(state, End("lost", error, "lost"))

    # -- the driver's side -----------------------------------------------------------------------

    async def closing(self) -> bool:
        return self._closing

    async def expect(self, slots: list[str]) -> None:
        """Name the slots before they start, so that `abandon` knows which is the last."""
        for slot in slots:
            self._slots.setdefault(slot, _Slot())

    async def record(self, event: dict[str, Any]) -> None:
        """Enter an event of the sweep's own into the journal."""
        journal.append(self._dir, {"time": time.time(), **event})

    async def close(self) -> None:
        """Stop every job and send every slot home."""
        await self.cancel_all()
        async with self._work:
            self._closing = True
            self._work.notify_all()

    # -- internals -------------------------------------------------------------------------------

    def _lend(self, state: _Slot, job: _Job) -> dict[str, Any]:
        state.job = job
        return {"token": job.token, **job.payload}

    def _most_left(self) -> _Job | None:
        """The running job with most seeds left for another slot; the oldest of several."""
        running = [state.job for state in self._slots.values() if state.job is not None]
        open_ = [job for job in running if job.left and job.payload.get("shared") and not self._over(job)]
        return max(open_, key=lambda job: (len(job.left), -job.token), default=None)

    async def _release(self, state: _Slot, end: End) -> None:
        """A slot lets go of its job, if it has one, which ends with the last of its slots."""
        job, state.job = state.job, None
        if job is None:
            return
        if end.outcome != "finished" and job.verdict is None:
            job.verdict = end
        if not self._runs(job):
            await self._end(job, job.verdict or end)

    def _runs(self, job: _Job) -> bool:
        return any(state.job is job for state in self._slots.values())

    def _over(self, job: _Job) -> bool:
        silent = time.monotonic() - job.seen > PATIENCE_S
        return job.cancelled or silent or job.verdict is not None or job.end is not None

    async def _cancel(self, job: _Job) -> None:
        running = self._runs(job)
        async with job.changed:
            job.cancelled = True
            job.changed.notify_all()
        if not running:
            await self._end(job, End("stopped"))

    async def _drop_dead(self) -> None:
        for job in list(self._queue):
            if self._over(job):
                self._queue.remove(job)
                await self._end(job, End("stopped" if job.cancelled else "lost", None, "lost"))

    async def _end(self, job: _Job, end: End) -> None:
        async with job.changed:
            if job.end is None:
                job.events += [event for seed in job.order for event in job.ahead.pop(seed, [])]
                job.end = end
            job.changed.notify_all()

    def _record(self, job: _Job, event: Mapping[str, Any]) -> None:
        journal.append(self._dir, {"time": time.time(), "trial": job.trial, **event})


def _enter(job: _Job, event: dict[str, Any]) -> int:
    """Put an event where the trial reads it, or aside while a seed before its own runs. Returns how many
    events the trial has read once it has read this one; 0 for one aside, for which nobody waits."""
    if event.get("seed") in job.order[1:]:
        job.ahead.setdefault(event["seed"], []).append(event)
        return 0
    job.events.append(event)
    position = len(job.events)
    ended = event["event"] == "run_finished"
    while ended and len(job.order) > 1:
        del job.order[0]
        ahead = job.ahead.pop(job.order[0], [])
        job.events += ahead
        ended = bool(ahead) and ahead[-1]["event"] == "run_finished"
    return position


async def _wait(condition: asyncio.Condition, seconds: float) -> bool:
    """Wait for a notification, at most so long; whether it came. The condition is held before and after."""
    try:
        await asyncio.wait_for(condition.wait(), seconds)
    except TimeoutError:
        return False
    return True
