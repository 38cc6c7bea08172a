"""A sweep and its runs as MLflow holds them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trainables.strategies.warmup import WarmUpPlan
from trimtab.decide.compare.statistics import Curve
from trimtab.errors import NotFoundError, TrackingError
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepdir.home import tracking_uri
from trimtab.sweepspec.names import check_name
from trimtab.sweepspec.spec import SweepSpec
from trimtab.tracking import names
from trimtab.tracking.store import VIEW, connect, sqlite_path, transient_errors, unreachable, view_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

Axis = Literal["rollouts", "tokens", "seconds"]


@dataclass(frozen=True)
class TrackedRun:
    """A run: one configuration under one seed."""

    run_id: str
    trial: str
    number: int
    label: str
    family: str
    """Label of the reference or candidate that it is a configuration of."""
    role: str
    seed: int
    status: str
    """`finished`, `failed`, `stopped`, `killed` or `running`."""
    error: str | None
    checkpoint: str | None
    parameters: dict[str, str]
    strategy: str
    """Fingerprint of its strategy and of the settings that may be searched."""
    shared: dict[str, Any]
    """Settings that runs must have in common to be compared."""
    budget: int
    """Training rollouts that it may spend."""
    rollouts: float
    """Training rollouts that it spent."""
    tokens: float
    seconds: float
    curve: Curve
    """Held-out accuracy against training compute."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings by which it learns, by dotted path; empty for runs of earlier versions."""
    updates: int = 0
    """Updates up to the last point of the curve."""
    warmup: WarmUpPlan | None = None
    """The part of it in which its learned prior does not act yet; None: there is none."""


@dataclass(frozen=True)
class TrackedSweep:
    """A sweep: the tags of its parent run, and its runs in order of configuration and seed."""

    sweep: str
    run_id: str
    """Id of the parent run."""
    reference: str
    purpose: str
    """`search` or `confirm`."""
    confirms: str | None
    split: str
    by: Axis
    """Unit of the curves' compute."""
    runs: tuple[TrackedRun, ...]


class Store:
    """Reads one experiment of one tracking store."""

    def __init__(self, uri: str, experiment: str = "trimtab") -> None:
        self.uri = uri
        self.experiment = experiment

    @classmethod
    def of(cls, folder: SweepDir, spec: SweepSpec | None, uri: str | None = None) -> Store:
        """Return the store that a sweep's spec names, or the one under its home; `uri` wins over both."""
        where = uri or tracking_uri(folder.home, spec.tracking.uri if spec else None)
        return cls(where, spec.tracking.experiment) if spec else cls(where)

    def sweep(self, name: str, sweep_id: str | None = None, by: Axis = "rollouts") -> TrackedSweep:
        """Read all runs of a sweep.

        Raises:
            NotFoundError: there is no such sweep.
            TrackingError: the store does not answer, is damaged, or holds several sweeps of this name.
        """
        check_name(name)
        wanted = {names.SWEEP: name} | ({names.SWEEP_ID: sweep_id} if sweep_id else {})
        runs = self.search(wanted)
        parents = [run for run in runs if run.data.tags.get(names.ROLE) == "sweep"]
        if not parents:
            raise NotFoundError(
                f"no sweep named {name!r} in {self.uri}, experiment {self.experiment!r}; if it ran here, "
                f"send what it recorded: trimtab track {name}"
            )
        if len(parents) > 1:
            raise TrackingError(
                f"{self.uri} holds {len(parents)} sweeps named {name!r} from different homes; run compare in "
                "the home of the one you mean"
            )
        tags = parents[0].data.tags
        split = tags.get(names.SPLIT, "validation")
        children = [run for run in runs if run.data.tags.get(names.ROLE) in names.ROLES]
        with self._answering() as client:
            tracked = [_run(client, run, split, by) for run in children]
        return TrackedSweep(
            sweep=name,
            run_id=str(parents[0].info.run_id),
            reference=tags[names.REFERENCE],
            purpose=tags.get(names.PURPOSE, "search"),
            confirms=tags.get(names.CONFIRMS),
            split=split,
            by=by,
            runs=tuple(sorted(tracked, key=lambda run: (run.number, run.seed))),
        )

    def view(self, name: str, sweep_id: str | None = None) -> str | None:
        """Return the path of a sweep's saved chart view behind an MLflow UI's address; None if it has none.

        Raises:
            NotFoundError: there is no store.
            TrackingError: it does not answer.
        """
        wanted = {names.SWEEP: name, names.ROLE: "sweep"} | ({names.SWEEP_ID: sweep_id} if sweep_id else {})
        for run in self.search(wanted)[:1]:
            run_id, experiment = str(run.info.run_id), str(run.info.experiment_id)
            with self._answering() as client:
                saved = f"{VIEW}{run_id}" in client.get_experiment(experiment).tags
            return view_path(run_id, experiment) if saved else None
        return None

    def confirmations_of(self, name: str) -> list[str]:
        """Return the names of the sweeps that confirm this one, oldest first.

        Raises:
            NotFoundError: there is no store.
            TrackingError: it does not answer.
        """
        found = self.search({names.CONFIRMS: name, names.ROLE: "sweep"})
        return [run.data.tags[names.SWEEP] for run in sorted(found, key=lambda run: run.info.start_time)]

    def search(self, tags: dict[str, str]) -> list[Run]:
        """Return the runs of the experiment that carry these tags.

        Raises:
            NotFoundError: there is no store.
            TrackingError: it does not answer.
        """
        path = sqlite_path(self.uri)
        if path is not None and not path.is_file():
            raise NotFoundError(
                f"no tracking store at {self.uri}; run a sweep first, check tracking.uri, or "
                "send what a sweep recorded: trimtab track NAME"
            )
        with self._answering() as client:
            found = client.get_experiment_by_name(self.experiment)
            return _search(client, found.experiment_id, tags) if found else []

    @contextmanager
    def _answering(self) -> Iterator[MlflowClient]:
        """Lend a client; the errors of a store that is down become TrackingError."""
        try:
            yield connect(self.uri)
        except transient_errors() as error:
            raise TrackingError(unreachable(self.uri, error)) from error


def _search(client: MlflowClient, experiment_id: str, tags: dict[str, str]) -> list[Run]:
    wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], wanted, max_results=1000, page_token=token)
        runs.extend(page)
        token = page.token
        if not token:
            return runs


def _run(client: MlflowClient, run: Run, split: str, by: Axis) -> TrackedRun:
    tags, metrics, run_id = run.data.tags, run.data.metrics, str(run.info.run_id)
    accuracy = last_by_step(client.get_metric_history(run_id, f"{split}/{names.ACCURACY}"))
    compute = last_by_step(client.get_metric_history(run_id, by))
    return TrackedRun(
        run_id=run_id,
        trial=tags[names.TRIAL],
        number=int(tags[names.NUMBER]),
        label=tags[names.LABEL],
        family=tags.get(names.FAMILY, tags[names.LABEL]),
        role=tags[names.ROLE],
        seed=int(tags[names.SEED]),
        status=tags[names.STATUS],
        error=tags.get(names.ERROR),
        checkpoint=tags.get(names.CHECKPOINT),
        parameters=dict(run.data.params),
        strategy=tags.get(names.STRATEGY, ""),
        shared=json.loads(tags.get(names.SHARED, "{}")),
        budget=int(tags[names.BUDGET]),
        rollouts=metrics.get(names.ROLLOUTS, 0.0),
        tokens=metrics.get(names.TOKENS, 0.0),
        seconds=metrics.get(names.SECONDS, 0.0),
        settings=json.loads(tags.get(names.SETTINGS, "{}")),
        curve=_curve({step: (compute[step], value) for step, value in accuracy.items() if step in compute}),
        updates=max(accuracy, default=0),
        warmup=WarmUpPlan(**json.loads(tags[names.WARMUP])) if names.WARMUP in tags else None,
    )


def last_by_step(history: Iterable[Metric]) -> dict[int, float]:
    """Map each step to its value. A step repeated after a restart counts once, with its last value."""
    last: dict[int, float] = {}
    for point in sorted(history, key=lambda point: point.timestamp):
        last[point.step] = point.value
    return last


def _curve(points: dict[int, tuple[float, float]]) -> Curve:
    ordered = np.asarray([points[step] for step in sorted(points)], dtype=np.float64).reshape(-1, 2)
    return Curve(ordered[:, 0], ordered[:, 1])
