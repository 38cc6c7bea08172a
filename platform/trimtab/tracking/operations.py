"""What is sent to MLflow: one dataclass for each kind of operation."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from trimtab.sweepdir.journal import Status

Key: TypeAlias = tuple[str, int]
"""(trial, seed): one MLflow run."""
SYSTEM_RUN: Key = ("", -1)
"""Key of the run that holds the system metrics of all nodes."""
END = sys.maxsize
"""Position behind every event of the journal. An operation with this position is always sent."""


@dataclass(frozen=True)
class Point:
    """One value of a curve."""

    name: str
    value: float
    time_ms: int
    step: int
    at: int = 0
    """Offset in the journal, in bytes, behind the event that it comes from."""
    later: bool = False
    """True if it had to wait for the reference to finish."""


@dataclass(frozen=True)
class OpenRun:
    """Create the run of a trial and seed, or reopen it."""

    key: Key
    name: str
    time_ms: int
    tags: Mapping[str, str]
    params: Mapping[str, str]
    config: str
    """The resolved configuration, as JSON."""
    at: int = 0


@dataclass(frozen=True)
class LogData:
    """Record the data that a run reads: split -> name, source, number of problems, hash."""

    key: Key
    data: Mapping[str, Mapping[str, Any]]
    at: int = 0


@dataclass(frozen=True)
class LogPoints:
    """Add points to the curves of a run."""

    key: Key
    points: tuple[Point, ...]


@dataclass(frozen=True)
class LogText:
    """Store a text as an artifact of a run."""

    key: Key
    path: str
    """Path of the artifact within the run."""
    text: str
    at: int = 0


@dataclass(frozen=True)
class CloseRun:
    """End a run with its status."""

    key: Key
    status: Status
    time_ms: int
    tags: Mapping[str, str]
    traceback: str | None
    at: int = 0


Operation: TypeAlias = OpenRun | LogData | LogPoints | LogText | CloseRun
