"""Turn journal events into operations for MLflow. Pure: no client, no clock, no files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from trainables.strategies.warmup import WarmUpPlan
from trimtab.sweepdir.curves import ReferenceCurve
from trimtab.sweepdir.journal import Event, Status
from trimtab.sweepspec.space.settings import searchable, settings_of
from trimtab.tracking import names
from trimtab.tracking.heatmap import LayerCurves
from trimtab.tracking.operations import (
    END,
    SYSTEM_RUN,
    CloseRun,
    Key,
    LogData,
    LogPoints,
    LogText,
    OpenRun,
    Operation,
    Point,
)

MAX_METRICS = 1000
"""MLflow's limit on metrics in one `log_batch`. With keys of 250 characters a batch also stays below 1 MB."""
MAX_NAME = 24
"""Longest part of a label in a run's name, in characters."""
FORBIDDEN = re.compile(r"[^\w\-. :/]")


@dataclass
class _Trial:
    """The state of one trial so far."""

    started: Event
    open: set[int] = field(default_factory=set)
    """Seeds whose run is open."""
    closed: set[int] = field(default_factory=set)


class Translator:
    """Turns events into operations. The operations of a run keep the order of its events."""

    def __init__(self, reference_label: str, seeds: tuple[int, ...]) -> None:
        self._minus = f"{names.ACCURACY}_minus_{reference_label}"
        self._reference = ReferenceCurve()
        self._reference_known = False
        self._seeds = seeds
        self._waiting: list[tuple[Event, int]] = []
        """Evaluations of candidates that came before the reference was complete."""
        self._trials: dict[str, _Trial] = {}
        self._points: dict[Key, list[Point]] = {}
        self._layers: dict[Key, LayerCurves] = {}
        self._operations: list[Operation] = []
        self._at = 0
        """Byte offset behind the event that is being translated."""
        self._done: set[tuple[Any, ...]] = set()
        """Steps and evaluations seen. A run that resumes from a checkpoint repeats what came after it."""
        self._nodes: dict[str, float] = {}
        """Node -> time of its first sample, in seconds."""

    def feed(self, events: Iterable[tuple[Event, int]]) -> list[Operation]:
        """Return the operations for these events (see `Tail.read_at`), with each run's points in batches."""
        for event, at in events:
            self._at = at
            self._event(event)
        for key in list(self._points):
            self._flush(key)
        operations, self._operations = self._operations, []
        return operations

    def end(self, status: Status, time_ms: int) -> list[Operation]:
        """Return the operations that close the runs still open when the sweep ends."""
        self._at = END
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
        if kind == "system":
            self._system(event)
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
        if kind in ("step", "evaluation"):
            what = (*key, kind, event.get("split"), event["step"])
            if what in self._done:
                return
            self._done.add(what)
        if kind == "data":
            self._operations.append(LogData(key, event["data"], self._at))
        elif kind == "step":
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
            names.STRATEGY: fingerprint({"strategy": config.get("strategy"), **settings_of(config)}),
            names.SHARED: json.dumps(shared_settings(config), sort_keys=True),
            names.SETTINGS: json.dumps(own_settings(config), sort_keys=True),
            names.TRIAL: key[0],
            names.SEED: str(key[1]),
            names.ROLE: started.get("role", "candidate"),
            names.LABEL: label,
            names.FAMILY: str(started.get("family", label)),
            names.NUMBER: str(started.get("number", 0)),
            names.BUDGET: str(budget),
            names.STATUS: "running",
        }
        if warmup := WarmUpPlan.of(config.get("strategy", {})):
            tags[names.WARMUP] = json.dumps(asdict(warmup))
        params = {name: _text(value) for name, value in started.get("searched", {}).items()}
        text = json.dumps({"seed": key[1], **config}, indent=2)
        name = run_name(int(started.get("number", 0)), label, key[1])
        self._operations.append(OpenRun(key, name, _ms(event), tags, params, text, self._at))

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
        if names.ACCURACY not in event.get("metrics", {}):
            return
        if self._trials[key[0]].started.get("role") == "reference":
            self._reference.add(key[1], event["rollouts"], event["metrics"][names.ACCURACY])
        elif self._reference_known:
            self._minus_reference(event, self._at)
        else:
            self._waiting.append((event, self._at))

    def _system(self, event: Event) -> None:
        node = event["trial"].removeprefix("node-")
        began = self._nodes.setdefault(node, event["time"])
        for name, value in event["metrics"].items():
            # MLflow shows metrics whose names begin with `system/` under "System metrics".
            self._point(SYSTEM_RUN, f"system/{node}/{name}", value, event, int(event["time"] - began))

    def _minus_reference(self, event: Event, at: int) -> None:
        level, seed = self._reference.at(event["rollouts"]), event["seed"]
        if level is not None and seed is not None:
            key = (event["trial"], seed)
            difference = event["metrics"][names.ACCURACY] - level
            split = event.get("split", "validation")
            self._point(key, f"{split}/{self._minus}", difference, event, event["step"], later_at=at)
            by_rollouts = f"{names.BY_ROLLOUTS}{self._minus}"
            self._point(key, by_rollouts, difference, event, event["rollouts"], later_at=at)

    def _run_finished(self, key: Key, event: Event) -> None:
        if self._trials[key[0]].started.get("role") == "reference" and event["status"] == "finished":
            self._reference.end(key[1])
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
            # It failed before its first seed started: without a run, MLflow would not show the error.
            seeds = trial.started.get("seeds") or self._seeds
            self._open((event["trial"], seeds[0]), event)
        for seed in sorted(trial.open):
            tags = {names.ERROR: str(error)} if error else {}
            if event.get("cause"):
                tags[names.CAUSE] = str(event["cause"])
            trace = event.get("traceback") or error if status == "failed" else None
            # A run that has not reported its end did not finish, whatever its trial reports.
            ended: Status = "failed" if status == "finished" else status
            self._close((event["trial"], seed), ended, _ms(event), tags, trace)
        if trial.started.get("role") == "reference" and not self._reference_known:
            self._reference_known = True
            for waiting, at in self._waiting:
                self._minus_reference(waiting, at)
            self._waiting.clear()

    def _close(
        self, key: Key, status: Status, time_ms: int, tags: Mapping[str, str], trace: str | None
    ) -> None:
        self._flush(key)
        page = self._layers.pop(key, LayerCurves()).page()
        if page is not None:
            self._operations.append(LogText(key, "layers.html", page, self._at))
        trial = self._trials[key[0]]
        trial.open.discard(key[1])
        trial.closed.add(key[1])
        self._operations.append(
            CloseRun(key, status, time_ms, {**tags, names.STATUS: status}, trace, self._at)
        )

    def _compute(self, key: Key, event: Event) -> None:
        # A step and the evaluation after it carry the same values.
        if (*key, "compute", event["step"]) in self._done:
            return
        self._done.add((*key, "compute", event["step"]))
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

    def _point(
        self, key: Key, name: str, value: Any, event: Event, step: int, later_at: int | None = None
    ) -> None:
        if isinstance(value, int | float):
            at = self._at if later_at is None else later_at
            point = Point(metric_name(name), float(value), _ms(event), int(step), at, later_at is not None)
            self._points.setdefault(key, []).append(point)

    def _flush(self, key: Key) -> None:
        """Emit batches within MLflow's limit. All points of one event are in the same batch."""
        batch: list[Point] = []
        for _, group in groupby(self._points.pop(key, []), key=lambda point: (point.at, point.later)):
            points = list(group)
            if len(batch) + len(points) > MAX_METRICS:
                self._operations.append(LogPoints(key, tuple(batch)))
                batch = []
            batch += points
        if batch:
            self._operations.append(LogPoints(key, tuple(batch)))


def metric_name(name: str) -> str:
    """Return a metric's name as MLflow accepts it."""
    return FORBIDDEN.sub("_", name)[:250]


def run_name(number: int, label: str, seed: int) -> str:
    """Return a name that fits MLflow's columns and legends; number and seed tell the runs of a sweep apart.

    The whole label is a tag, and searched values are parameters.
    """
    short = re.split(r"[( ]", label, maxsplit=1)[0][:MAX_NAME]
    return f"{number} {short} seed {seed}"


def fingerprint(value: Any) -> str:
    """Return a short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def shared_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that two runs must share to be compared.

    These are the model, the task, the rollouts per step, sampling and evaluation, less what a search may
    change.
    """
    sampling = {k: v for k, v in config.get("sampling", {}).items() if f"sampling.{k}" not in searchable()}
    evaluation = {k: v for k, v in config.get("evaluation", {}).items() if k != "every"}
    whole = {name: config.get(name) for name in ("model", "task", "rollouts_per_step")}
    return {**whole, "sampling": sampling, "evaluation": evaluation}


def own_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that runs may differ in and still be compared, by dotted path: how a policy learns.

    These are `learner` and `loss`, and what a search may change of `sampling`.
    """
    learning = {section: config.get(section, {}) for section in ("learner", "loss")}
    return {**_flat(learning), **settings_of(config)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        )
    return found


def _ms(event: Event) -> int:
    return int(event["time"] * 1000)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
