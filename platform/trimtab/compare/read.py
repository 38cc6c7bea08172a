"""A sweep's runs as MLflow holds them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trimtab.compare.statistics import Curve
from trimtab.errors import NotFoundError, TrackingError
from trimtab.home import check_name
from trimtab.tracking import names
from trimtab.tracking.store import connect, sqlite_path, transient_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run


@dataclass(frozen=True)
class RunRecord:
    """One configuration and seed."""

    trial: str
    number: int
    label: str
    role: str
    seed: int
    status: str
    """`finished`, `failed`, `stopped`, `killed` or `running`."""
    parameters: dict[str, str]
    budget: int
    """Training rollouts it may spend."""
    rollouts: float
    """Training rollouts it spent."""
    tokens: float
    seconds: float
    curve: Curve
    """Validation accuracy against training rollouts."""


@dataclass(frozen=True)
class SweepRecord:
    """A sweep: its parent run's tags, and its runs in order of configuration and seed."""

    sweep: str
    reference: str
    runs: tuple[RunRecord, ...]


def read_sweep(uri: str, sweep: str, experiment: str, sweep_id: str | None = None) -> SweepRecord:
    """All runs of a sweep. NotFoundError: no such sweep. TrackingError: the store does not answer."""
    check_name(sweep)
    path = sqlite_path(uri)
    if path is not None and not path.is_file():
        raise NotFoundError(f"no tracking store at {uri}; run a sweep first, or check tracking.uri")
    try:
        client = connect(uri)
        return _read(client, uri, sweep, experiment, sweep_id)
    except transient_errors() as error:
        raise TrackingError(f"{uri} does not answer: {error}; start it, or check tracking.uri") from error


def _read(client: MlflowClient, uri: str, sweep: str, experiment: str, sweep_id: str | None) -> SweepRecord:
    found = client.get_experiment_by_name(experiment)
    wanted = {names.SWEEP: sweep} | ({names.SWEEP_ID: sweep_id} if sweep_id else {})
    runs = _search(client, found.experiment_id, wanted) if found else []
    parents = [run for run in runs if run.data.tags.get(names.ROLE) == "sweep"]
    if not parents:
        raise NotFoundError(f"no sweep named {sweep!r} in {uri}, experiment {experiment!r}")
    if len(parents) > 1:
        raise TrackingError(
            f"{uri} holds {len(parents)} sweeps named {sweep!r} from different homes; run compare in the "
            "home of the one you mean"
        )
    children = [run for run in runs if run.data.tags.get(names.ROLE) in names.ROLES]
    records = sorted((_record(client, run) for run in children), key=lambda run: (run.number, run.seed))
    return SweepRecord(sweep, parents[0].data.tags[names.REFERENCE], tuple(records))


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


def _record(client: MlflowClient, run: Run) -> RunRecord:
    tags, metrics = run.data.tags, run.data.metrics
    history = client.get_metric_history(run.info.run_id, f"{names.BY_ROLLOUTS}{names.ACCURACY}")
    return RunRecord(
        trial=tags[names.TRIAL],
        number=int(tags[names.NUMBER]),
        label=tags[names.LABEL],
        role=tags[names.ROLE],
        seed=int(tags[names.SEED]),
        status=tags[names.STATUS],
        parameters=dict(run.data.params),
        budget=int(tags[names.BUDGET]),
        rollouts=metrics.get(names.ROLLOUTS, 0.0),
        tokens=metrics.get(names.TOKENS, 0.0),
        seconds=metrics.get(names.SECONDS, 0.0),
        curve=_curve(history),
    )


def _curve(history: Iterable[Metric]) -> Curve:
    """Points in order of compute. A step that was repeated after a restart counts once, as it was last."""
    last: dict[int, float] = {}
    for point in sorted(history, key=lambda point: point.timestamp):
        last[point.step] = point.value
    compute = sorted(last)
    return Curve(
        np.asarray(compute, dtype=np.float64), np.asarray([last[step] for step in compute], dtype=np.float64)
    )
