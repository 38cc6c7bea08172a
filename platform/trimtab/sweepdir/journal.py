"""The event journal of a sweep: what happened, one JSON object a line, one file a trial.

The journal on disk is the queue between the control loop and everything that only watches (MLflow, the
progress display): a watcher that is slow or down reads on from its own position later and loses nothing.
Only the sweep's broker writes; a line that is not finished yet is never returned.

Layout under a sweep's folder::

    records/<trial>.jsonl      events of one trial, in order
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from trainables.worker.outcome import Cause
from trimtab.errors import StorageError

EventName = Literal[
    "trial_started",
    "data",
    "stage",
    "lease",
    "step",
    "evaluation",
    "retry",
    "run_finished",
    "trial_finished",
    "system",
]
Status = Literal["finished", "failed", "stopped", "killed"]
"""`stopped`: ended early by the scheduler. `killed`: ended by the user or with the sweep."""


class Event(TypedDict, total=False):
    """One line. Every event has `event`, `trial` and `time`; the rest by kind.

    trial_started   role ("reference" | "tuned_reference" | "candidate"), number (order in the sweep),
                    config (resolved TrialConfig as JSON), searched (parameter -> value), seeds (list of run
                    seeds), label
    data            seed, data (split -> {source, problems, sha256} of what the run reads)
    stage           seed (or null), stage ("waiting" | "resetting" | "training" | "evaluating" | "saving")
    lease           seed, slot, lease (number of it on the slot, from 1), checksum (of learner and engine
                    weights after the reset)
    retry           cause, error: the trial resumes from its checkpoint on another lease ("lost"), or once at
                    half the micro-batch (micro_batch_tokens; "out_of_memory")
    step            seed, step, rollouts, tokens, seconds (all cumulative for this run), metrics
    evaluation      seed, step, rollouts, tokens, seconds (as above), split, metrics (accuracy, answers, ...)
    run_finished    seed, status, error, traceback, cause (of a failure), checkpoint (path or null)
    trial_finished  status, score (float or null), error, cause
    system          metrics of one machine; `trial` is `node-<name>`
    """

    event: EventName
    trial: str
    time: float
    role: Literal["reference", "tuned_reference", "candidate"]
    number: int
    label: str
    config: dict[str, Any]
    searched: dict[str, Any]
    seeds: list[int]
    seed: int | None
    data: dict[str, dict[str, Any]]
    stage: str
    step: int
    rollouts: int
    tokens: int
    seconds: float
    split: str
    metrics: dict[str, float]
    status: Status
    error: str | None
    cause: Cause | None
    traceback: str | None
    checkpoint: str | None
    score: float | None


OF_ALL: dict[str, type | tuple[type, ...]] = {"event": str, "trial": str, "time": (int, float)}
"""What every event has, with its type."""
OF_KIND: dict[str, tuple[str, ...]] = {
    "stage": ("stage",),
    "step": ("rollouts", "metrics"),
    "evaluation": ("rollouts", "metrics"),
    "run_finished": ("seed", "status"),
    "trial_finished": ("status",),
}
"""What the readers need of an event besides."""
SHOWN = 60
"""Bytes of a damaged line that a message repeats."""


def append(sweep_dir: Path, event: Mapping[str, Any]) -> None:
    """Append one event to its trial's file; it is flushed before this returns."""
    folder = sweep_dir / "records"
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps(event, separators=(",", ":")) + "\n"
    with (folder / f"{event['trial']}.jsonl").open("a", encoding="utf-8") as file:
        file.write(line)


def read(sweep_dir: Path, trial: str) -> list[Event]:
    """Return all events of one trial so far.

    Raises:
        StorageError: a line is damaged.
    """
    file = sweep_dir / "records" / f"{trial}.jsonl"
    if not file.is_file():
        return []
    events, at = [], 0
    with file.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                events.append(_event(line, file, at))
            at += len(line)
    return events


def repair(sweep_dir: Path) -> None:
    """Cut off what a killed writer left half-written, before anyone appends to it.

    Raises:
        StorageError: a line further up is damaged. The files before it are repaired all the same.
    """
    for file in sorted((sweep_dir / "records").glob("*.jsonl")):
        cut_torn_tail(file)
        read(sweep_dir, file.stem)


def cut_torn_tail(file: Path) -> None:
    """Shorten a file of JSON lines to its last whole line; its reader names any damage further up."""
    with file.open("r+b") as lines:
        good = whole = 0
        for line in lines:
            whole += len(line)
            if line.endswith(b"\n") and _parsed(line) is not None:
                good = whole
        if good < whole:
            lines.truncate(good)


def check_lines(file: Path, fix: str) -> None:
    """Refuse a file of JSON objects, one a line, in which a line is something else.

    Raises:
        StorageError: names the line, and the `fix`.
    """
    at = 0
    with file.open("rb") as lines:
        for line in lines:
            if not isinstance(_parsed(line), dict):
                raise _damaged(file, at, line, fix)
            at += len(line)


def _parsed(line: bytes) -> object:
    """Return what a line of JSON holds; None if it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _event(line: bytes, file: Path, at: int) -> Event:
    """Return the event in a line of `file` that begins at byte `at`."""
    found = _parsed(line)
    if not isinstance(found, dict) or any(not isinstance(found.get(key), OF_ALL[key]) for key in OF_ALL):
        raise _damaged(file, at, line)
    if any(key not in found for key in OF_KIND.get(found["event"], ())):
        raise _damaged(file, at, line)
    return cast("Event", found)


def _damaged(file: Path, at: int, line: bytes, fix: str | None = None) -> StorageError:
    with file.open("rb") as whole:
        number = whole.read(at).count(b"\n") + 1
    shown = repr(line[:SHOWN].decode(errors="replace").rstrip("\n")) + ("..." if len(line) > SHOWN else "")
    # An event stands for itself, so that its neighbours hold without it.
    own = f"remove that line (sed -i {number}d {shlex.quote(str(file))}), or restore the file from a backup"
    return StorageError(f"{file}, line {number}: {shown} is not what trimtab wrote there; {fix or own}")


class Tail:
    """Reads the events of all trials of a sweep as they come, each exactly once."""

    def __init__(self, sweep_dir: Path) -> None:
        self._folder = sweep_dir / "records"
        self._offset: dict[str, int] = {}

    @property
    def position(self) -> dict[str, int]:
        """Trial -> bytes read."""
        return {name.removesuffix(".jsonl"): offset for name, offset in self._offset.items()}

    def read(self) -> Iterator[Event]:
        """Yield the events written since the last call, in order within each trial.

        Raises:
            StorageError: a line is damaged.
        """
        for event, _ in self.read_at():
            yield event

    def read_at(self) -> Iterator[tuple[Event, int]]:
        """Yield the same events, each with the byte behind it in its trial's file."""
        if not self._folder.is_dir():
            return
        for name in self._grown():
            with (self._folder / name).open("rb") as file:
                file.seek(self._offset.get(name, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    at = self._offset.get(name, 0)
                    event = _event(line, self._folder / name, at)
                    self._offset[name] = at + len(line)
                    yield event, self._offset[name]

    def _grown(self) -> list[str]:
        """Return files with more than has been read: most trials have ended, and theirs are not opened."""
        with os.scandir(self._folder) as files:
            return sorted(
                file.name
                for file in files
                if file.name.endswith(".jsonl") and file.stat().st_size > self._offset.get(file.name, 0)
            )
