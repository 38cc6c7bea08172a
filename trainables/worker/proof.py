"""The proof that a lease begins in the state of the slot's first one, and how far the slot has grown."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import psutil

from trainables.errors import UncleanLease

if TYPE_CHECKING:
    from trainables.learner.group import LearnerGroup
    from trainables.rollouts.group import EngineGroup

SETTLED = 3
"""Leases after which libraries are loaded and allocators are warm; growth counts from there."""
GROWTH = 0.5
"""Share by which a slot's resident memory may grow from there before the slot is replaced."""


class Proof:
    """Compares the weights after every reset with those after the slot's first one, to the bit.

    Leases are compared if they share model and dtype.
    """

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], str] = {}

    def check(self, model: str, learner: LearnerGroup, engines: EngineGroup, timeout_s: float) -> str:
        """Give the engines the learner's base weights, then hash both sides. Return the checksum.

        Call it after everything has been reset and before anything is restored.

        Raises:
            UncleanLease: The checksum differs from the first one, or an engine's cache is not empty.
            EngineLost, RayActorError: An engine has not loaded the weights within `timeout_s` seconds.
        """
        engines.update(learner, 0, timeout_s)
        sides = [learner.checksum()]
        for mark in engines.fingerprints():
            if not mark.cache_empty:
                raise UncleanLease("an engine's KV cache holds something after its reset")
            sides.append(mark.weights)
        found = hashlib.sha256(" ".join(sides).encode()).hexdigest()[:16]
        first = self._first.setdefault((model, learner.dtype), found)
        if found != first:
            raise UncleanLease(f"weights after the reset have checksum {found}, at the first lease {first}")
        return found


class Growth:
    """Watches the resident memory of a slot's processes, lease by lease."""

    def __init__(self) -> None:
        self._leases = 0
        self._settled = 0.0

    def too_much(self, rss_mb: float) -> bool:
        """Enter the memory at the end of a lease, MB; tell whether it exceeds the settled level too far."""
        self._leases += 1
        if self._leases <= SETTLED:
            self._settled = max(self._settled, rss_mb)
            return False
        return rss_mb > self._settled * (1 + GROWTH)


def rss_mb() -> float:
    """Return the resident memory of this process, MB."""
    return float(psutil.Process().memory_info().rss) / 1e6
