"""The proof that a lease begins where the slot's first one did, and what the slot has grown to since."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import psutil

from trainables.errors import UncleanLease

if TYPE_CHECKING:
    from trainables.learner.group import LearnerGroup
    from trainables.rollouts.pool import EnginePool

SETTLED = 3
"""Leases after which a slot has loaded its libraries and filled its pools; growth is counted from there."""
GROWTH = 0.5
"""Share by which a slot's resident memory may grow from there before it is replaced."""


class Proof:
    """Compares every reset with the slot's first one for the same model and type, to the bit."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], str] = {}

    def check(self, model: str, learner: LearnerGroup, engines: EnginePool, timeout_s: float) -> str:
        """Give the engines the learner's base weights, then hash both sides.

        Called when everything has been reset and nothing restored. Returns the checksum. Raises UncleanLease
        when it differs from the first one, or when an engine's cache is not empty.
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
    """Resident memory of a slot's processes, lease by lease."""

    def __init__(self) -> None:
        self._leases = 0
        self._settled = 0.0

    def too_much(self, rss_mb: float) -> bool:
        """Enter the figure at the end of a lease; True when it has outgrown what the slot settled at."""
        self._leases += 1
        if self._leases <= SETTLED:
            self._settled = max(self._settled, rss_mb)
            return False
        return rss_mb > self._settled * (1 + GROWTH)


def rss_mb() -> float:
    """Resident memory of this process, MB."""
    return float(psutil.Process().memory_info().rss) / 1e6
