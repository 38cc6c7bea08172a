"""How a lease ended, in the words that broker, journal and worker share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cause = Literal["out_of_memory", "lost", "diverged", "verifier", "user", "bug"]
"""Kinds of failure. `user`: the spec cannot work, which ends the sweep. `bug`: none of the others."""

Outcome = Literal["finished", "stopped", "failed", "lost"]


@dataclass(frozen=True)
class End:
    """How a lease ended."""

    outcome: Outcome
    error: str | None = None
    cause: Cause | None = None
    """Kind of the failure, if it failed."""
