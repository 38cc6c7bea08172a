"""The broker: one async actor that lends slots to trials and carries their events back. Pure asyncio.

A trial submits a job and polls for its events; a slot asks for its next job and pushes events. The broker
also writes the sweep's journal, so that it has one writer. It holds no GPU and computes nothing.

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

from trimtab import records

PATIENCE_S = 60.0
"""A trial that has not polled for so long is taken for dead."""
POLL_S = 1.0
"""Longest wait of one poll. Tune reuses a trial's actor only if its function ends within two seconds."""

Outcome = Literal["finished", "stopped", "failed", "lost"]


@dataclass(frozen=True)
class End:
    """How a lease ended."""

    outcome: Outcome
    error: str | None = None
    cause: records.Cause | None = None
    """Of a failure."""


@dataclass
class _Job:
    token: int
    trial: str
    payload: Mapping[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)
    read: int = 0
    """Events the trial has acknowledged."""
    seen: float = field(default_factory=time.monotonic)
    cancelled: bool = False
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

    async def history(self, trial: str) -> list[records.Event]:
        """What the journal holds of a trial: one that a killed driver left is continued, not repeated."""
        return records.read(self._dir, trial)

    async def submit(self, trial: str, payload: Mapping[str, Any]) -> int:
        """Queue a job, first come first served. Returns its token."""
        job = _Job(len(self._jobs), trial, payload)
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
        if state.job is not None and state.job.end is None:
            why = f"slot {slot}: its learner worker died and was restarted"
            await self._end(state.job, End("lost", why, "lost"))
        state.job = None
        return state.generation

    async def next(self, slot: str, generation: int) -> dict[str, Any] | Literal["wait", "quit"]:
        """The slot's next job, or what to do instead."""
        async with self._work:
            await self._drop_dead()
            if not self._queue and not self._closing:
                await _wait(self._work, POLL_S)
            state = self._slots[slot]
            if self._closing or state.failure or generation != state.generation:
                return "quit"
            while self._queue:
                job = self._queue.popleft()
                if job.end is None:
                    state.job = job
                    return {"token": job.token, **job.payload}
        return "wait"

    async def push(self, token: int, event: dict[str, Any]) -> bool:
        """Enter one event of a running job. Returns False when the run is to stop.

        An evaluation waits until the trial has handed it to Tune and come back, so that a scheduler's verdict
        takes effect before another step is paid for.
        """
        job = self._jobs[token]
        self._record(job, event)
        async with job.changed:
            job.events.append(event)
            position = len(job.events)
            job.changed.notify_all()
            while event["event"] == "evaluation" and job.read < position and not self._over(job):
                await _wait(job.changed, POLL_S)
        return not self._over(job)

    async def cancelled(self, token: int) -> bool:
        """Whether the trial has ended its job, rather than fallen silent."""
        return self._jobs[token].cancelled

    async def finish(self, token: int, end: End) -> None:
        """The slot is done with a job."""
        job = self._jobs[token]
        for state in self._slots.values():
            if state.job is job:
                state.job = None
                state.finished += end.outcome == "finished"
        if end.outcome == "stopped" and not job.cancelled:
            end = End("lost", f"the trial did not ask for events for {PATIENCE_S:.0f} s", "lost")
        await self._end(job, end)

    async def lost(self, slot: str, why: str) -> Literal["never up", "no lease finished", "useful"]:
        """The slot's processes are gone or about to be replaced; a job that it had is lost. Returns what the
        slot had done since it was started."""
        state = self._slots[slot]
        if state.job is not None:
            await self._end(state.job, End("lost", f"slot {slot}: {why}", "lost"))
        done: Literal["never up", "no lease finished", "useful"] = "never up"
        if state.registered:
            done = "useful" if state.finished else "no lease finished"
        # Whatever is left of the old processes is sent home.
        state.generation += 1
        state.job, state.registered, state.finished = None, 0, 0
        return done

    async def abandon(self, slot: str, error: str) -> None:
        """A slot has failed for good. With the last one, nothing that waits can ever run."""
        state = self._slots.setdefault(slot, _Slot())
        state.failure = error
        if all(state.failure for state in self._slots.values()):
            self._abandoned = error
            for job in list(self._jobs.values()):
                await self._end(job, End("failed", error, "lost"))
        elif state.job is not None:
            # Its trial leases again, from a slot that lives.
            await self._end(state.job, End("lost", error, "lost"))

    # -- the driver's side -----------------------------------------------------------------------

    async def closing(self) -> bool:
        return self._closing

    async def expect(self, slots: list[str]) -> None:
        """Name the slots before they start, so that `abandon` knows which is the last."""
        for slot in slots:
            self._slots.setdefault(slot, _Slot())

    async def record(self, event: dict[str, Any]) -> None:
        """Enter an event of the sweep's own into the journal."""
        records.append(self._dir, {"time": time.time(), **event})

    async def close(self) -> None:
        """Stop every job and send every slot home."""
        await self.cancel_all()
        async with self._work:
            self._closing = True
            self._work.notify_all()

    # -- internals -------------------------------------------------------------------------------

    def _over(self, job: _Job) -> bool:
        silent = time.monotonic() - job.seen > PATIENCE_S
        return job.cancelled or silent or job.end is not None

    async def _cancel(self, job: _Job) -> None:
        running = any(state.job is job for state in self._slots.values())
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
                job.end = end
            job.changed.notify_all()

    def _record(self, job: _Job, event: Mapping[str, Any]) -> None:
        records.append(self._dir, {"time": time.time(), "trial": job.trial, **event})


async def _wait(condition: asyncio.Condition, seconds: float) -> None:
    """Wait for a notification, at most so long. The condition is held before and after."""
    try:
        await asyncio.wait_for(condition.wait(), seconds)
    except TimeoutError:
        return
