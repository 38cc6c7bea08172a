"""A trial's job in the broker: its seeds, and its events in the order in which the trial reads them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainables.worker.outcome import End


@dataclass
class Job:
    """A job from its submission to its end. Several slots may run seeds of it at the same time."""

    token: int
    trial: str
    payload: Mapping[str, Any]
    order: list[int]
    """Seeds whose events the trial has not read to their end, in reading order."""
    left: deque[int]
    """Seeds that no slot has taken yet."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """Events that the trial may read."""
    ahead: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """Seed -> events that wait until all earlier seeds have ended."""
    read: int = 0
    """Number of events that the trial has acknowledged."""
    seen: float = field(default_factory=time.monotonic)
    """Time of the trial's last poll, in seconds."""
    cancelled: bool = False
    verdict: End | None = None
    """How the job will end unless it finishes. It ends only when every slot has released it, because until
    then a slot may write to a seed that the trial would lease again."""
    end: End | None = None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def enter(self, event: dict[str, Any]) -> int:
        """Add an event where the trial reads it, or set it aside while an earlier seed runs.

        Returns:
            Number of events that the trial has read once it has read this one; 0 if it was set aside, since
            nobody waits for that.
        """
        if event.get("seed") in self.order[1:]:
            self.ahead.setdefault(event["seed"], []).append(event)
            return 0
        self.events.append(event)
        position = len(self.events)
        ended = event["event"] == "run_finished"
        while ended and len(self.order) > 1:
            del self.order[0]
            ahead = self.ahead.pop(self.order[0], [])
            self.events += ahead
            ended = bool(ahead) and ahead[-1]["event"] == "run_finished"
        return position

    async def close(self, end: End) -> None:
        """End the job, unless it has ended, and let the trial read all events."""
        async with self.changed:
            if self.end is None:
                self.events += [event for seed in self.order for event in self.ahead.pop(seed, [])]
                self.end = end
            self.changed.notify_all()


async def wait_for(condition: asyncio.Condition, seconds: float) -> bool:
    """Wait at most `seconds` for a notification, and return whether it came.

    The caller holds the condition, before and after.
    """
    try:
        await asyncio.wait_for(condition.wait(), seconds)
    except TimeoutError:
        return False
    return True
