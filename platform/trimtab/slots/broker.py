"""The broker: one async actor that lends slots to trials and carries their events back. Pure asyncio.

A trial submits a job and polls for its events. A slot asks for its next job, takes one seed of it after
another, and pushes events. An idle slot joins a job that may be shared and has seeds left; the trial still
reads the events seed by seed, in the order of its seeds. The broker is also the only writer of the sweep's
journal. It holds no GPU and computes nothing.

How a dead process is noticed: a trial that does not poll for `PATIENCE_S` loses its slot, and leases again if
it comes back. A slot whose worker died registers again under a new generation, and its job is lost. A process
of an old generation is always told to quit.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainables.worker.outcome import End
from trimtab.slots.job import Job, wait_for
from trimtab.sweepdir import journal

PATIENCE_S = 60.0
"""Time without a poll after which a trial counts as dead."""
POLL_S = 1.0
"""Maximum wait of one poll. Tune reuses a trial's actor only if its function ends within two seconds."""


@dataclass
class _Slot:
    generation: int = 0
    job: Job | None = None
    failure: str | None = None
    registered: int = 0
    """Number of times its learner started since the whole slot was last replaced."""
    finished: int = 0
    """Number of leases that finished since then."""


class Broker:
    """Lends slots to trials (see the module). Methods are called through Ray, and every wait is bounded."""

    def __init__(self, sweep_dir: str) -> None:
        self._dir = Path(sweep_dir)
        self._jobs: dict[int, Job] = {}
        self._queue: deque[Job] = deque()
        self._slots: dict[str, _Slot] = {}
        self._work = asyncio.Condition()
        self._closing = False
        self._abandoned: str | None = None

    async def move(self, sweep_dir: str) -> None:
        """Keep the journal of another sweep from now on: its driver uses the slots of one that has ended."""
        self._dir = Path(sweep_dir)

    # -- the trial's side ------------------------------------------------------------------------

    async def history(self, trial: str) -> list[journal.Event]:
        """Read a trial's events from the journal: a trial of a killed driver is continued, not repeated."""
        return journal.read(self._dir, trial)

    async def submit(self, trial: str, payload: Mapping[str, Any]) -> int:
        """Queue a job, first come first served, and return its token.

        Args:
            trial: The trial's name in the sweep.
            payload: What the slot needs, with `seeds` and `shared` (whether idle slots may run some of them).
        """
        seeds = list(payload["seeds"])
        job = Job(len(self._jobs), trial, payload, seeds, deque(seeds))
        self._jobs[job.token] = job
        self._record(job, {"event": "stage", "stage": "waiting", "seed": None})
        if self._abandoned:
            await job.close(End("failed", self._abandoned, "lost"))
            return job.token
        async with self._work:
            self._queue.append(job)
            self._work.notify_all()
        return job.token

    async def poll(self, token: int, cursor: int) -> tuple[list[dict[str, Any]], End | None]:
        """Return the events from `cursor` on, and how the lease ended, or None while it runs.

        A poll acknowledges the events before `cursor`, and shows that the trial is alive.
        """
        job = self._jobs[token]
        job.seen = time.monotonic()
        async with job.changed:
            job.read = max(job.read, cursor)
            job.changed.notify_all()
            if len(job.events) <= cursor and job.end is None:
                await wait_for(job.changed, POLL_S)
        return job.events[cursor:], job.end

    async def cancel(self, token: int) -> None:
        """Cancel a job whose trial has ended. The slot stops it at its next event."""
        await self._cancel(self._jobs[token])

    async def cancel_all(self) -> None:
        """Cancel every job."""
        for job in list(self._jobs.values()):
            await self._cancel(job)

    # -- the slot's side -------------------------------------------------------------------------

    async def register(self, slot: str) -> int:
        """Register a slot's worker and return its generation. A job that the slot had is lost."""
        state = self._slots.setdefault(slot, _Slot())
        state.generation += 1
        state.registered += 1
        why = f"slot {slot}: its learner worker died and was restarted"
        await self._release(state, End("lost", why, "lost"))
        return state.generation

    async def next(self, slot: str, generation: int) -> dict[str, Any] | Literal["wait", "quit"]:
        """Return the slot's next job, or what to do instead."""
        async with self._work:
            await self._drop_dead()
            idle = not self._queue and not self._closing and not await wait_for(self._work, POLL_S)
            state = self._slots[slot]
            if self._closing or state.failure or generation != state.generation:
                return "quit"
            while self._queue:
                job = self._queue.popleft()
                if job.end is None:
                    return self._lend(state, job)
            # Only after a wait of POLL_S: between two trials the queue is empty for a shorter time, and the
            # next trial needs this slot.
            if idle and (shared := self._most_left()):
                return self._lend(state, shared)
        return "wait"

    async def take(self, token: int) -> int | None:
        """Return the next seed of a job; None if the slot is to finish the job."""
        job = self._jobs[token]
        return None if self._over(job) or not job.left else job.left.popleft()

    async def push(self, token: int, event: dict[str, Any]) -> bool:
        """Add an event of a running job. Return False if the run is to stop.

        An evaluation waits until the trial has reported it to Tune and polled again. A scheduler's decision
        thus takes effect before another step is spent.
        """
        job = self._jobs[token]
        self._record(job, event)
        async with job.changed:
            position = job.enter(event)
            job.changed.notify_all()
            while event["event"] == "evaluation" and job.read < position and not self._over(job):
                await wait_for(job.changed, POLL_S)
        return not self._over(job)

    async def cancelled(self, token: int) -> bool:
        """Tell whether the trial itself cancelled its job, rather than stopped polling."""
        return self._jobs[token].cancelled

    async def finish(self, slot: str, token: int, end: End) -> None:
        """Release a slot from a job. The call of a slot that has lost the job already changes nothing."""
        state, job = self._slots[slot], self._jobs[token]
        if state.job is not job:
            return
        state.finished += end.outcome == "finished"
        if end.outcome == "finished" and job.left:
            end = End("stopped")
        if end.outcome == "stopped" and not job.cancelled:
            end = End("lost", f"the trial did not poll for {PATIENCE_S:.0f} s", "lost")
        await self._release(state, end)

    async def lost(self, slot: str, why: str) -> Literal["never up", "no lease finished", "useful"]:
        """Note that a slot's processes have ended or are about to be replaced. A job that it had is lost.

        Returns:
            What the slot had done since it was started.
        """
        state = self._slots[slot]
        await self._release(state, End("lost", f"slot {slot}: {why}", "lost"))
        done: Literal["never up", "no lease finished", "useful"] = "never up"
        if state.registered:
            done = "useful" if state.finished else "no lease finished"
        # A new generation tells whatever is left of the old processes to quit.
        state.generation += 1
        state.registered, state.finished = 0, 0
        return done

    async def abandon(self, slot: str, error: str) -> None:
        """Give up a slot that will not be replaced. With the last slot, every job fails."""
        state = self._slots.setdefault(slot, _Slot())
        state.failure = error
        if all(state.failure for state in self._slots.values()):
            self._abandoned = error
            for job in list(self._jobs.values()):
                await job.close(End("failed", error, "lost"))
        # The trial of its job leases again, from another slot.
        await self._release(state, End("lost", error, "lost"))

    # -- the driver's side -----------------------------------------------------------------------

    async def closing(self) -> bool:
        """Tell whether the sweep is ending."""
        return self._closing

    async def expect(self, slots: list[str]) -> None:
        """Announce the slots before they start, so that `abandon` knows which one is the last."""
        for slot in slots:
            self._slots.setdefault(slot, _Slot())

    async def record(self, event: dict[str, Any]) -> None:
        """Append an event to the journal that does not come from a slot."""
        journal.append(self._dir, {"time": time.time(), **event})

    async def close(self) -> None:
        """Cancel every job and tell every slot to quit."""
        await self.cancel_all()
        async with self._work:
            self._closing = True
            self._work.notify_all()

    # -- internals -------------------------------------------------------------------------------

    def _lend(self, state: _Slot, job: Job) -> dict[str, Any]:
        state.job = job
        return {"token": job.token, **job.payload}

    def _most_left(self) -> Job | None:
        """Return the running job with the most seeds left for another slot; the oldest of equal ones."""
        running = [state.job for state in self._slots.values() if state.job is not None]
        open_ = [job for job in running if job.left and job.payload.get("shared") and not self._over(job)]
        return max(open_, key=lambda job: (len(job.left), -job.token), default=None)

    async def _release(self, state: _Slot, end: End) -> None:
        """Release a slot from its job, if it has one. The job ends when its last slot is released."""
        job, state.job = state.job, None
        if job is None:
            return
        if end.outcome != "finished" and job.verdict is None:
            job.verdict = end
        if not self._runs(job):
            await job.close(job.verdict or end)

    def _runs(self, job: Job) -> bool:
        return any(state.job is job for state in self._slots.values())

    def _over(self, job: Job) -> bool:
        silent = time.monotonic() - job.seen > PATIENCE_S
        return job.cancelled or silent or job.verdict is not None or job.end is not None

    async def _cancel(self, job: Job) -> None:
        running = self._runs(job)
        async with job.changed:
            job.cancelled = True
            job.changed.notify_all()
        if not running:
            await job.close(End("stopped"))

    async def _drop_dead(self) -> None:
        for job in list(self._queue):
            if self._over(job):
                self._queue.remove(job)
                await job.close(End("stopped" if job.cancelled else "lost", None, "lost"))

    def _record(self, job: Job, event: Mapping[str, Any]) -> None:
        journal.append(self._dir, {"time": time.time(), "trial": job.trial, **event})
