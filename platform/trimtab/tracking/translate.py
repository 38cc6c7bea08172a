"""Journal events to what MLflow is to be told. Pure: no client, no clock, no files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from trimtab.curves import ReferenceCurve
from trimtab.records import Event, Status
from trimtab.tracking import names
from trimtab.tracking.heatmap import LayerCurves

MAX_METRICS = 1000
"""MLflow's limit of one `log_batch`; at 250 characters a key it stays under its 1 MB as well."""
FORBIDDEN = re.compile(r"[^\w\-. :/]")
Key: TypeAlias = tuple[str, int]
"""Trial and seed: one MLflow run."""


@dataclass(frozen=True)
class Point:
    """One value of a curve."""

    name: str
    value: float
    time_ms: int
    step: int


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


@dataclass(frozen=True)
class LogPoints:
    key: Key
    points: tuple[Point, ...]


@dataclass(frozen=True)
class CloseRun:
    key: Key
    status: Status
    time_ms: int
    tags: Mapping[str, str]
    traceback: str | None


@dataclass(frozen=True)
class LogText:
    key: Key
    path: str
    """Name of the artifact."""
    text: str


Operation: TypeAlias = OpenRun | LogPoints | LogText | CloseRun


@dataclass
class _Trial:
    """What is known of a trial so far."""

    started: Event
    open: set[int] = field(default_factory=set)
    """Seeds whose run is open."""
    closed: set[int] = field(default_factory=set)


class Translator:
    """Turns events into operations, in order within each run."""

    def __init__(self, reference_label: str, seeds: tuple[int, ...]) -> None:
        self._minus = f"{names.ACCURACY}_minus_{reference_label}"
        self._reference = ReferenceCurve()
        self._reference_known = False
        self._seeds = seeds
        self._waiting: list[Event] = []
        """Candidates' evaluations seen before the reference was complete."""
        self._trials: dict[str, _Trial] = {}
        self._points: dict[Key, list[Point]] = {}
        self._layers: dict[Key, LayerCurves] = {}
        self._operations: list[Operation] = []

    def feed(self, events: Iterable[Event]) -> list[Operation]:
        """Operations for these events; the curves of a run are gathered into few batches."""
        for event in events:
            self._event(event)
        for key in list(self._points):
            self._flush(key)
        operations, self._operations = self._operations, []
        return operations

    def end(self, status: Status, time_ms: int) -> list[Operation]:
        """Close what is still open when the sweep ends."""
        for name, trial in self._trials.items():
            for seed in sorted(trial.open):
                ended: Status = "killed" if status in ("killed", "stopped") else "failed"
                error = "the sweep ended before this run did"
                self._close((name, seed), ended, time_ms, {names.ERROR: error}, None)
        operations, self._operations = self._operations, []
        return operations

    def _event(self, event: Event) -> None:
        kind = event["event"]
        if kind == "trial_started":
            known = self._trials.get(event["trial"])
            self._trials[event["trial"]] = _Trial(event, known.open if known else set())
            return
        if event["trial"] not in self._trials:
            return
        if kind == "trial_finished":
            self._trial_finished(event)
            return
        seed = event.get("seed")
        if seed is None:
            return
        key = (event["trial"], seed)
        self._open(key, event)
        if kind == "step":
            self._step(key, event)
        elif kind == "evaluation":
            self._evaluation(key, event)
        elif kind == "run_finished":
            self._run_finished(key, event)

    def _open(self, key: Key, event: Event) -> None:
        trial = self._trials[key[0]]
        if key[1] in trial.open:
            return
        trial.open.add(key[1])
        started = trial.started
        config = started.get("config", {})
        budget = int(config.get("steps", 0)) * int(config.get("rollouts_per_step", 0))
        label = started.get("label", key[0])
        tags = {
            names.TRIAL: key[0],
            names.SEED: str(key[1]),
            names.ROLE: started.get("role", "candidate"),
            names.LABEL: label,
            names.NUMBER: str(started.get("number", 0)),
            names.BUDGET: str(budget),
            names.STATUS: "running",
        }
        params = {name: _text(value) for name, value in started.get("searched", {}).items()}
        text = json.dumps({"seed": key[1], **config}, indent=2)
        name = f"{started.get('number', 0)} {label} seed {key[1]}"
        self._operations.append(OpenRun(key, name, _ms(event), tags, params, text))

    def _step(self, key: Key, event: Event) -> None:
        metrics = event.get("metrics", {})
        for name, value in metrics.items():
            self._point(key, name if "/" in name else f"train/{name}", value, event, event["step"])
            if isinstance(value, int | float):
                self._layers.setdefault(key, LayerCurves()).add(name, event["step"], value)
        self._compute(key, event)
        if "reward" in metrics:
            self._by_compute(key, "reward", metrics["reward"], event)

    def _evaluation(self, key: Key, event: Event) -> None:
        split = event.get("split", "validation")
        for name, value in event.get("metrics", {}).items():
            self._point(key, f"{split}/{name}", value, event, event["step"])
            if name != "answers":
                curve = name if split == "validation" else f"{split}_{name}"
                self._by_compute(key, curve, value, event)
        self._compute(key, event)
        if split != "validation" or names.ACCURACY not in event.get("metrics", {}):
            return
        if self._trials[key[0]].started.get("role") == "reference":
            self._reference.add(key[1], event["rollouts"], event["metrics"][names.ACCURACY])
        elif self._reference_known:
            self._minus_reference(event)
        else:
            self._waiting.append(event)

    def _minus_reference(self, event: Event) -> None:
        level, seed = self._reference.at(event["rollouts"]), event["seed"]
        if level is not None and seed is not None:
            key = (event["trial"], seed)
            difference = event["metrics"][names.ACCURACY] - level
            self._point(key, f"validation/{self._minus}", difference, event, event["step"])
            self._point(key, f"{names.BY_ROLLOUTS}{self._minus}", difference, event, event["rollouts"])

    def _run_finished(self, key: Key, event: Event) -> None:
        tags: dict[str, str] = {}
        if event.get("error"):
            tags[names.ERROR] = str(event["error"])
        if event.get("cause"):
            tags[names.CAUSE] = str(event["cause"])
        if event.get("checkpoint"):
            tags[names.CHECKPOINT] = str(event["checkpoint"])
        trace = event.get("traceback") or event.get("error") if event["status"] == "failed" else None
        self._close(key, event["status"], _ms(event), tags, trace)

    def _trial_finished(self, event: Event) -> None:
        trial = self._trials[event["trial"]]
        status, error = event["status"], event.get("error")
        if status == "failed" and not trial.open and not trial.closed:
            # It failed before any seed began: without a run nobody would see why.
            seeds = trial.started.get("seeds") or self._seeds
            self._open((event["trial"], seeds[0]), event)
        for seed in sorted(trial.open):
            tags = {names.ERROR: str(error)} if error else {}
            if event.get("cause"):
                tags[names.CAUSE] = str(event["cause"])
            trace = event.get("traceback") or error if status == "failed" else None
            # A trial cannot finish well while one of its runs has not reported its end.
            ended: Status = "failed" if status == "finished" else status
            self._close((event["trial"], seed), ended, _ms(event), tags, trace)
        if trial.started.get("role") == "reference" and not self._reference_known:
            self._reference_known = True
            for waiting in self._waiting:
                self._minus_reference(waiting)
            self._waiting.clear()

    def _close(
        self, key: Key, status: Status, time_ms: int, tags: Mapping[str, str], trace: str | None
    ) -> None:
        self._flush(key)
        page = self._layers.pop(key, LayerCurves()).page()
        if page is not None:
            self._operations.append(LogText(key, "layers.html", page))
        trial = self._trials[key[0]]
        trial.open.discard(key[1])
        trial.closed.add(key[1])
        self._operations.append(CloseRun(key, status, time_ms, {**tags, names.STATUS: status}, trace))

    def _compute(self, key: Key, event: Event) -> None:
        for name, value in (
            (names.ROLLOUTS, event.get("rollouts")),
            (names.TOKENS, event.get("tokens")),
            (names.LEARNER_TOKENS, event.get("learner_tokens")),
            (names.SECONDS, event.get("seconds")),
        ):
            if value is not None:
                self._point(key, name, value, event, event["step"])

    def _by_compute(self, key: Key, name: str, value: float, event: Event) -> None:
        self._point(key, f"{names.BY_ROLLOUTS}{name}", value, event, event["rollouts"])
        self._point(key, f"{names.BY_TOKENS}{name}", value, event, event["tokens"])

    def _point(self, key: Key, name: str, value: Any, event: Event, step: int) -> None:
        if isinstance(value, int | float):
            point = Point(FORBIDDEN.sub("_", name)[:250], float(value), _ms(event), int(step))
            self._points.setdefault(key, []).append(point)

    def _flush(self, key: Key) -> None:
        points = self._points.pop(key, [])
        for start in range(0, len(points), MAX_METRICS):
            self._operations.append(LogPoints(key, tuple(points[start : start + MAX_METRICS])))


def _ms(event: Event) -> int:
    return int(event["time"] * 1000)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
