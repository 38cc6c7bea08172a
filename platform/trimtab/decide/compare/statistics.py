"""Statistics of accuracy-compute curves. Pure functions over arrays; shapes: E evaluations, S seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]

WINDOW = 3
"""Evaluations in the running mean, and in a run's final accuracy."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Curve:
    """Accuracy of one run against compute spent, in order."""

    compute_E: Array
    accuracy_E: Array


@dataclass(frozen=True)
class Crossing:
    """Compute until a level is reached, mean over runs."""

    compute: float
    """Runs that never reach the level count as their budget."""
    runs: int
    censored: int
    """How many of them never reach it: with any, the true mean is larger than `compute`."""


@dataclass(frozen=True)
class Ratio:
    """A configuration's compute to the level, divided by the reference's own."""

    value: float
    bound: Literal["=", ">", "<", "?"]
    """`>`: the true ratio is larger (runs of the configuration are censored); `<`: smaller (runs of the
    reference are); `?`: both, so neither side is known."""


@dataclass(frozen=True)
class Interval:
    """Mean of paired differences, with its t interval."""

    mean: float
    low: float
    high: float
    pairs: int
    p_value: float
    """Two-sided, of no difference; before any correction for several comparisons."""


def final_accuracy(accuracy_E: Array) -> float:
    """Mean of the last WINDOW evaluations (of all, if there are fewer)."""
    return float(np.mean(accuracy_E[-WINDOW:]))


def smooth(curve: Curve) -> Curve:
    """Running mean over WINDOW evaluations, each at the compute of its last one.

    The first WINDOW - 1 evaluations yield no point: a mean of fewer is noisier and would cross too early.
    """
    if len(curve.accuracy_E) < WINDOW:
        return Curve(np.empty(0), np.empty(0))
    sums = np.cumsum(np.concatenate([[0.0], curve.accuracy_E]))
    return Curve(curve.compute_E[WINDOW - 1 :], (sums[WINDOW:] - sums[:-WINDOW]) / WINDOW)


def first_crossing(curve: Curve, level: float) -> float | None:
    """Compute at which the smoothed curve first reaches the level; None if it never does.

    Between the two points around the crossing by linear interpolation.
    """
    smoothed = smooth(curve)
    # A level computed from the same numbers in another order may differ in the last digits.
    reached = np.flatnonzero(smoothed.accuracy_E >= level - 1e-12)
    if len(reached) == 0:
        return None
    right = int(reached[0])
    if right == 0:
        return float(smoothed.compute_E[0])
    x0, x1 = smoothed.compute_E[right - 1 : right + 1]
    y0, y1 = smoothed.accuracy_E[right - 1 : right + 1]
    return float(x0 + (x1 - x0) * min(1.0, (level - y0) / (y1 - y0)))


def mean_crossing(curves: Sequence[Curve], level: float, budget: float | None) -> Crossing:
    """Mean compute to the level; runs that never reach it count as the budget (None: as all they spent)."""
    crossings = [first_crossing(curve, level) for curve in curves]
    ends = [float(curve.compute_E[-1]) if budget is None else budget for curve in curves]
    counted = [end if crossing is None else crossing for crossing, end in zip(crossings, ends, strict=True)]
    return Crossing(float(np.mean(counted)), len(crossings), sum(crossing is None for crossing in crossings))


def crossing_ratio(own: Crossing, reference: Crossing) -> Ratio:
    """Crossing against crossing: both by the same smoothing and the same first-crossing rule.

    Never a crossing against the reference's whole budget: that gives an identical method a ratio of about .6.
    """
    bounds: dict[tuple[bool, bool], Literal["=", ">", "<", "?"]] = {
        (False, False): "=",
        (True, False): ">",
        (False, True): "<",
        (True, True): "?",
    }
    if reference.compute == 0:
        return Ratio(1.0 if own.compute == 0 else float("inf"), "=")
    return Ratio(own.compute / reference.compute, bounds[own.censored > 0, reference.censored > 0])


def area(curve: Curve, low: float, high: float) -> float:
    """Mean height of the curve between two amounts of compute (trapezoids; ends interpolated)."""
    if high <= low:
        return float(np.interp(low, curve.compute_E, curve.accuracy_E))
    inside = (curve.compute_E > low) & (curve.compute_E < high)
    x = np.concatenate([[low], curve.compute_E[inside], [high]])
    y = np.interp(x, curve.compute_E, curve.accuracy_E)
    return float(np.trapezoid(y, x) / (high - low))


def area_difference(own: Curve, reference: Curve) -> float:
    """Difference of the areas over the compute that both curves cover."""
    low = max(own.compute_E[0], reference.compute_E[0])
    high = min(own.compute_E[-1], reference.compute_E[-1])
    return area(own, low, high) - area(reference, low, high)


def paired_interval(differences_S: Sequence[float]) -> Interval | None:
    """Mean, two-sided t interval and t test of paired differences; None for fewer than two pairs."""
    from scipy import stats

    differences = np.asarray(differences_S, dtype=np.float64)
    pairs = len(differences)
    if pairs < 2:
        return None
    mean = float(differences.mean())
    standard_error = float(differences.std(ddof=1)) / pairs**0.5
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, pairs - 1)) * standard_error
    if standard_error > 0:
        p_value = 2 * float(stats.t.sf(abs(mean) / standard_error, pairs - 1))
    else:
        p_value = 0.0 if mean else 1.0
    return Interval(mean, mean - half, mean + half, pairs, p_value)


def holm(p_values_C: Sequence[float], family: int | None = None) -> list[float]:
    """Holm's step-down adjustment (1979) of the p values of C comparisons, in their order.

    `family`: comparisons in all, if there are more than these C (such as of an earlier confirmation). The
    others count as if they had the smallest p values, which can only make these larger.
    """
    family = max(len(p_values_C), family or 0)
    order = np.argsort(p_values_C, kind="stable")
    adjusted = [1.0] * len(p_values_C)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (family - rank) * p_values_C[index]))
        adjusted[index] = running
    return adjusted
