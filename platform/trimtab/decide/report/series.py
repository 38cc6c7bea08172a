"""The report's curves: the runs of each configuration as a mean and a spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trimtab.decide.compare.read import TrackedRun, TrackedSweep, last_by_step
from trimtab.decide.compare.statistics import Array

if TYPE_CHECKING:
    from mlflow import MlflowClient

GRID = 60
"""Points of a mean curve."""
NOISE_WINDOW = 5
"""Measurements over which gradient noise and signal are averaged before they are divided."""


@dataclass(frozen=True)
class Band:
    """Mean and standard deviation over seeds S, against compute."""

    compute_E: Array
    mean_E: Array
    sd_E: Array
    seeds: int


@dataclass(frozen=True)
class Configuration:
    """One configuration's finished runs."""

    name: str
    is_reference: bool
    runs: tuple[TrackedRun, ...]


def configurations(sweep: TrackedSweep) -> list[Configuration]:
    """Group a sweep's runs by configuration, in order of number. Runs without a curve are left out."""
    by_trial: dict[str, list[TrackedRun]] = {}
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


def accuracy_band(runs: Sequence[TrackedRun]) -> Band | None:
    """Return held-out accuracy at equal compute."""
    return band([(run.curve.compute_E, run.curve.accuracy_E) for run in runs])


def metric_band(client: MlflowClient, runs: Sequence[TrackedRun], metric: str, by: str) -> Band | None:
    """Return a metric of training steps against compute."""
    return band([curve for run in runs if len((curve := metric_curve(client, run, metric, by))[0])])


def noise_band(client: MlflowClient, runs: Sequence[TrackedRun], by: str) -> Band | None:
    """Return tr Cov(g) / |E g|^2 against compute.

    Both are averaged over NOISE_WINDOW measurements, then divided; points where |E g|^2 is 0 are left out.
    """
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


def metric_curve(client: MlflowClient, run: TrackedRun, metric: str, by: str) -> tuple[Array, Array]:
    """Read (compute_E, value_E) of one run."""
    values = last_by_step(client.get_metric_history(run.run_id, metric))
    compute = last_by_step(client.get_metric_history(run.run_id, by))
    steps = sorted(step for step in values if step in compute)
    return np.array([compute[s] for s in steps], float), np.array([values[s] for s in steps], float)


def band(curves: Sequence[tuple[Array, Array]]) -> Band | None:
    """Average curves over the compute that all of them cover; None if there is none."""
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
