"""How far a tracking store has been told of a sweep's journal.

The journal is the spool; this is the mark in it. A driver that goes on, or `trimtab track`, reads the journal
from its beginning to know where every curve stands, and sends only what lies behind the mark.

`<sweep>/tracked.json` holds, for each store (by a fingerprint of its address: that may hold a password), the
byte behind the last event of each run (`trial/seed`) that it has been told: once for what follows from the
event itself, once for the differences to the reference, which can come later. Seeds of a trial may run at
once, and are told one by one; what is settled of all of them is entered under the trial's own name. A killed
driver has at most the last `WRITE_S` seconds told twice, which changes nothing in the store.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from trimtab.sweepdir.atomic import write_whole
from trimtab.tracking.operations import END, Key, LogPoints, Operation, Point

FILE = "tracked.json"
OWN, LATER = "own", "later"
WRITE_S = 1.0
"""Least time between two writes while operations are sent: the file holds every trial of the sweep."""


class Position:
    """The mark for one store; written by `save` once it has moved."""

    def __init__(self, sweep_dir: Path, uri: str) -> None:
        self._file = sweep_dir / FILE
        self._store = hashlib.sha256(uri.encode()).hexdigest()[:16]
        self._all: dict[str, dict[str, dict[str, int]]] = {}
        if self._file.is_file():
            self._all = json.loads(self._file.read_text(encoding="utf-8"))
        self._marks = self._all.setdefault(self._store, {})
        self._moved = False
        self._written_s = time.monotonic()

    def clear(self) -> None:
        """The store has nothing of this sweep (any more)."""
        self._marks.clear()

    def rest(self, operation: Operation) -> Operation | None:
        """What of an operation is still to be sent; None if nothing is."""
        if not isinstance(operation, LogPoints):
            return operation if operation.at > self._mark(operation.key, OWN) else None
        points = tuple(
            point for point in operation.points if point.at > self._mark(operation.key, _kind(point))
        )
        return LogPoints(operation.key, points) if points else None

    def advance(self, operation: Operation) -> None:
        """The store has this operation. Curves of a run are sent in the order of its events."""
        marks = self._marks.setdefault(_run(operation.key), {})
        if isinstance(operation, LogPoints):
            for point in operation.points:
                marks[_kind(point)] = max(marks.get(_kind(point), 0), point.at)
        elif operation.at != END:
            # Others may follow from the same event; to open or close a run twice changes nothing.
            marks[OWN] = max(marks.get(OWN, 0), operation.at - 1)
        self._moved = True
        if time.monotonic() - self._written_s >= WRITE_S:
            self.save()

    def settle(self, at: Mapping[str, int]) -> None:
        """The store has all that follows from each trial's events up to these bytes themselves."""
        before = {trial: marks.get(OWN, 0) for trial, marks in self._marks.items()}
        if any(at[trial] > before.get(trial, 0) for trial in at):
            for trial, byte in at.items():
                self._marks.setdefault(trial, {})[OWN] = max(before.get(trial, 0), byte)
            self._moved = True

    def _mark(self, key: Key, kind: str) -> int:
        return max(self._marks.get(name, {}).get(kind, 0) for name in (_run(key), key[0]))

    def save(self) -> None:
        """Write the mark if it has moved."""
        if not self._moved:
            return
        write_whole(self._file, json.dumps(self._all))
        self._moved, self._written_s = False, time.monotonic()


def _run(key: Key) -> str:
    return f"{key[0]}/{key[1]}"


def _kind(point: Point) -> str:
    return LATER if point.later else OWN
