"""The saved chart view of a sweep in MLflow's UI: the reference against the best, at equal rollouts.

MLflow averages the runs of a group at each step. Runs seldom evaluate at the same rollouts, so their curves
are put on one grid first: otherwise the mean would jump with the seeds that happen to have a point there.
The band around a mean is MLflow's: from the lowest seed to the highest.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.decide.compare.read import TrackedRun, TrackedSweep
from trimtab.decide.compare.table import Comparison, Row
from trimtab.tracking import names
from trimtab.tracking.store import VIEW

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ACCURACY, ROLLOUTS = "at_equal_rollouts/accuracy", "training rollouts"
"""Metrics of the chart: its curve, and its horizontal axis, which bears the metric's name."""
GRID = 24
"""Intervals of the common grid."""


def save_view(client: MlflowClient, parent: Run, sweep: TrackedSweep, found: Comparison) -> None:
    """Save the view of a sweep that compares at least one configuration with its reference."""
    reference = next((row for row in found.rows if row.verdict == "reference"), None)
    best = next((row for row in found.rows if row.difference is not None), None)
    if reference is None or best is None:
        return
    shown = {row.trial: _finished(sweep, row) for row in (reference, best)}
    for runs in shown.values():
        for run in runs:
            _log_curve(client, run, _grid(runs, found.budget))
    experiment = str(parent.info.experiment_id)
    state = _state([run.run_id for runs in shown.values() for run in runs], found)
    name = f"{sweep.sweep}: {best.label} against {reference.label}"
    created = int(parent.info.start_time)
    client.set_experiment_tag(experiment, f"{VIEW}{parent.info.run_id}", _envelope(name, created, state))


def _finished(sweep: TrackedSweep, row: Row) -> list[TrackedRun]:
    return [run for run in sweep.runs if run.trial == row.trial and run.status == "finished"]


def _grid(runs: Sequence[TrackedRun], budget: int) -> list[int]:
    """Return the rollouts on the common grid that the curves of all these runs cover."""
    low = max(run.curve.compute_E[0] for run in runs)
    high = min(run.curve.compute_E[-1] for run in runs)
    return [at for at in (round(budget * part / GRID) for part in range(GRID + 1)) if low <= at <= high]


def _log_curve(client: MlflowClient, run: TrackedRun, grid: Sequence[int]) -> None:
    """Log a curve on the grid. Its points bear the run's own end, so that a repeated one is one row."""
    from mlflow.entities import Metric

    info = client.get_run(run.run_id).info
    time_ms = int(info.end_time or info.start_time)
    value_E = np.interp(grid, run.curve.compute_E, run.curve.accuracy_E)
    points = [Metric(ACCURACY, float(value), time_ms, at) for at, value in zip(grid, value_E, strict=True)]
    axis = [Metric(ROLLOUTS, float(at), time_ms, at) for at in grid]
    client.log_batch(run.run_id, metrics=[*points, *axis])


def _state(run_ids: Sequence[str], found: Comparison) -> dict[str, Any]:
    """Return the state of MLflow's page of runs: what is filtered, grouped and drawn."""
    listed = ", ".join(f"'{run_id}'" for run_id in run_ids)
    chart = {
        "uuid": "accuracy", "type": "LINE", "runsCountToCompare": 100, "metricSectionId": "equal",
        "deleted": False, "isGenerated": False, "displayName": f"{found.split} accuracy at equal rollouts",
        "metricKey": ACCURACY, "selectedMetricKeys": [ACCURACY], "lineSmoothness": 0,
        "xAxisScaleType": "linear", "scaleType": "linear", "range": {}, "xAxisKey": "metric",
        "selectedXAxisMetricKey": ROLLOUTS, "yAxisKey": "metric", "yAxisExpressions": [],
        "ignoreOutliers": False, "useGlobalXaxisKey": False, "useGlobalLineSmoothing": False,
    }  # fmt: skip
    section = {
        "uuid": "equal", "name": "At equal rollouts", "display": True, "isReordered": False,
        "deleted": False, "isGenerated": False, "columns": 1, "cardHeight": 420,
    }  # fmt: skip
    return {
        "searchFilter": f"attributes.run_id IN ({listed})",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": ["metrics.`" + name + "`" for name in (ACCURACY, names.ROLLOUTS)],
        "runsHiddenMode": "SHOW_ALL",
        "runListHidden": True,
        "compareRunCharts": [chart],
        "compareRunSections": [section],
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": names.LABEL}],
        },
    }


def _envelope(name: str, created_ms: int, state: dict[str, Any]) -> str:
    """Return a view as MLflow stores it: name, times, and the state deflated."""
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    return json.dumps(
        {"name": name, "createdAt": created_ms, "updatedAt": created_ms, "state": f"deflate;{packed}"}
    )
