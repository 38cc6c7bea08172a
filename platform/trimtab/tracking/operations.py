"""What MLflow is told, one dataclass for each kind of operation."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from trimtab.sweepdir.journal import Status

Key: TypeAlias = tuple[str, int]
"""Trial and seed: one MLflow run."""
SWEEP_RUN: Key = ("", -1)
"""The sweep's own run."""
END = sys.maxsize
"""Stands for the end of the journal: what comes of it is always sent."""


@dataclass(frozen=True)
class Point:
    """One value of a curve."""

    name: str
    value: float
    time_ms: int
    step: int
    at: int = 0
    """Byte of the journal behind the event it comes from."""
    later: bool = False
    """It had to wait for the reference."""


@dataclass(frozen=True)
class OpenRun:
    """Make the run of a trial and seed, or continue it."""

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
    """What a run reads: split -> source, number of problems, hash."""

    key: Key
    data: Mapping[str, Mapping[str, Any]]
    at: int = 0


@dataclass(frozen=True)
class LogPoints:
    key: Key
    points: tuple[Point, ...]


@dataclass(frozen=True)
class LogText:
    key: Key
    path: str
    """Name of the artifact."""
    text: str
    at: int = 0


@dataclass(frozen=True)
class CloseRun:
    key: Key
    status: Status
    time_ms: int
    tags: Mapping[str, str]
    traceback: str | None
    at: int = 0


Operation: TypeAlias = OpenRun | LogData | LogPoints | LogText | CloseRun
