"""Curves of a sweep's runs, by configuration, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trimtab.decide.compare.read import RunRecord, SweepRecord, last_by_step
from trimtab.decide.compare.statistics import Array

if TYPE_CHECKING:
    from mlflow import MlflowClient

GRID = 60
"""Points of a mean curve."""
NOISE_WINDOW = 5
"""Measurements over which gradient noise and signal are averaged before they are divided."""


@dataclass(frozen=True)
class Band:
    """Mean over seeds S and their spread, against compute."""

    compute_E: Array
    mean_E: Array
    sd_E: Array
    seeds: int


@dataclass(frozen=True)
class Configuration:
    """One configuration's finished runs."""

    name: str
    is_reference: bool
    runs: tuple[RunRecord, ...]


def configurations(sweep: SweepRecord) -> list[Configuration]:
    """All configurations in order of their numbers, the runs being those that have a curve."""
    by_trial: dict[str, list[RunRecord]] = {}
    for run in sweep.runs:
        by_trial.setdefault(run.trial, []).append(run)
    return [
        Configuration(
            f"{runs[0].number} {runs[0].label}",
            runs[0].role == "reference",
            tuple(run for run in runs if len(run.curve.compute_E)),
        )
        for runs in by_trial.values()
    ]


def accuracy_band(runs: Sequence[RunRecord]) -> Band | None:
    """Held-out accuracy at equal compute."""
    return band([(run.curve.compute_E, run.curve.accuracy_E) for run in runs])


def metric_band(client: MlflowClient, runs: Sequence[RunRecord], metric: str, by: str) -> Band | None:
    """A metric of training steps against compute."""
    return band([curve for run in runs if len((curve := metric_curve(client, run, metric, by))[0])])


def noise_band(client: MlflowClient, runs: Sequence[RunRecord], by: str) -> Band | None:
    """tr Cov(g) / |E g|^2: both averaged over a few measurements, then divided; gaps where |E g|^2 is 0."""
    curves = []
    for run in runs:
        compute_E, trace_E = metric_curve(client, run, "train/gradient_noise_trace", by)
        _, signal_E = metric_curve(client, run, "train/gradient_signal", by)
        if len(compute_E) < NOISE_WINDOW:
            continue
        kernel = np.ones(NOISE_WINDOW) / NOISE_WINDOW
        noise_E, mean_E = np.convolve(trace_E, kernel, "valid"), np.convolve(signal_E, kernel, "valid")
        good_E = mean_E > 0
        if good_E.any():
            ratio_E = np.asarray(noise_E[good_E] / mean_E[good_E], dtype=np.float64)
            curves.append((compute_E[NOISE_WINDOW - 1 :][good_E], ratio_E))
    return band(curves)


def metric_curve(client: MlflowClient, run: RunRecord, metric: str, by: str) -> tuple[Array, Array]:
    """(compute_E, value_E) of one run."""
    values = last_by_step(client.get_metric_history(run.run_id, metric))
    compute = last_by_step(client.get_metric_history(run.run_id, by))
    steps = sorted(step for step in values if step in compute)
    return np.array([compute[s] for s in steps], float), np.array([values[s] for s in steps], float)


def band(curves: Sequence[tuple[Array, Array]]) -> Band | None:
    """Mean and standard deviation over the compute that all curves cover; None for no curve."""
    if not curves:
        return None
    low = max(compute_E[0] for compute_E, _ in curves)
    high = min(compute_E[-1] for compute_E, _ in curves)
    if high < low:
        return None
    grid_E = np.linspace(low, high, GRID)
    value_SE = np.array([np.interp(grid_E, *curve) for curve in curves])
    sd_E = value_SE.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(GRID)
    return Band(grid_E, value_SE.mean(axis=0), sd_E, len(curves))
