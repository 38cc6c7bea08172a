"""How much of a sweep's journal a tracking store already holds.

The journal is the queue; this file is the mark in it. A resumed driver, or `trimtab track`, reads the journal
from its beginning to know where every curve stands, and sends only what lies behind the mark.

`<sweep>/tracked.json` has an entry for each store. Its key is a hash of the store's address, because an
address may hold a password. For each run (`trial/seed`) the entry holds two byte offsets: the end of the last
event whose own values were sent, and the end of the last event whose difference to the reference was sent,
which can be later. Seeds of a trial may run at the same time and are sent one by one; an offset that holds
for all seeds is stored under the trial's name. After a driver is killed, at most the last `WRITE_S` seconds
are sent again, which changes nothing in the store.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from trimtab.sweepdir.atomic import read_mapping, write_whole
from trimtab.sweepdir.folder import TRACKED, TRACKED_FIX
from trimtab.tracking.operations import END, Key, LogPoints, Operation, Point

OWN, LATER = "own", "later"
WRITE_S = 1.0
"""Minimum time between two writes while operations are sent: the file holds every trial of the sweep."""


class Position:
    """The mark of one store. `save` writes it to disk if it has moved."""

    def __init__(self, sweep_dir: Path, uri: str) -> None:
        self._file = sweep_dir / TRACKED
        self._store = hashlib.sha256(uri.encode()).hexdigest()[:16]
        self._all: dict[str, dict[str, dict[str, int]]] = {}
        if self._file.is_file():
            self._all = read_mapping(self._file, TRACKED_FIX)
        self._marks = self._all.setdefault(self._store, {})
        self._moved = False
        self._written_s = time.monotonic()

    def clear(self) -> None:
        """Forget the mark, because the store holds nothing of this sweep (any more)."""
        self._marks.clear()

    def rest(self, operation: Operation) -> Operation | None:
        """Return the part of an operation that is still to be sent, or None if nothing is."""
        if not isinstance(operation, LogPoints):
            return operation if operation.at > self._mark(operation.key, OWN) else None
        points = tuple(
            point for point in operation.points if point.at > self._mark(operation.key, _kind(point))
        )
        return LogPoints(operation.key, points) if points else None

    def advance(self, operation: Operation) -> None:
        """Note that the store holds this operation. Operations of a run come in the order of its events."""
        marks = self._marks.setdefault(_run(operation.key), {})
        if isinstance(operation, LogPoints):
            for point in operation.points:
                marks[_kind(point)] = max(marks.get(_kind(point), 0), point.at)
        elif operation.at != END:
            # Other operations may follow from the same event. Opening or closing a run twice is harmless.
            marks[OWN] = max(marks.get(OWN, 0), operation.at - 1)
        self._moved = True
        if time.monotonic() - self._written_s >= WRITE_S:
            self.save()

    def settle(self, at: Mapping[str, int]) -> None:
        """Note that the store holds all values of each trial's events up to these byte offsets.

        Differences to the reference are not included.
        """
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
