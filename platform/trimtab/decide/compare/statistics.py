"""Statistics of accuracy-compute curves. Pure functions over arrays.

Shapes: E evaluations, S seeds, C comparisons. Compute is counted in rollouts, tokens or seconds.
"""

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
    """Compute until a level is reached: the mean over runs."""

    compute: float
    """A run that never reaches the level counts as its budget."""
    runs: int
    censored: int
    """Runs that never reach the level. If there are any, the true mean is larger than `compute`."""


@dataclass(frozen=True)
class Ratio:
    """A configuration's compute to the level, divided by the reference's own."""

    value: float
    bound: Literal["=", ">", "<", "?"]
    """`>`: the true ratio is larger (runs of the configuration are censored); `<`: smaller (runs of the
    reference are); `?`: both, so neither side is known."""
    low: float | None = None
    high: float | None = None
    """Ends of the interval over seeds, by Fieller's theorem; None for fewer than two paired seeds, or where
    the reference's compute is not clearly above 0. A censored run counts as its budget in them."""


@dataclass(frozen=True)
class Interval:
    """Mean of paired differences and its t interval."""

    mean: float
    low: float
    high: float
    pairs: int
    p_value: float
    """Two-sided p value of "no difference", before any correction for several comparisons."""


def final_accuracy(accuracy_E: Array) -> float:
    """Return the mean of the last WINDOW evaluations (of all, if there are fewer)."""
    return float(np.mean(accuracy_E[-WINDOW:]))


def smooth(curve: Curve) -> Curve:
    """Return the running mean over WINDOW evaluations, each at the compute of its last one.

    The first WINDOW - 1 evaluations yield no point: a mean over fewer is noisier and would cross too early.
    """
    if len(curve.accuracy_E) < WINDOW:
        return Curve(np.empty(0), np.empty(0))
    sums = np.cumsum(np.concatenate([[0.0], curve.accuracy_E]))
    return Curve(curve.compute_E[WINDOW - 1 :], (sums[WINDOW:] - sums[:-WINDOW]) / WINDOW)


def first_crossing(curve: Curve, level: float) -> float | None:
    """Return the compute at which the smoothed curve first reaches the level; None if it never does.

    Interpolates linearly between the two points around the crossing.
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
    """Return the mean compute to the level.

    A run that never reaches it counts as `budget`; if that is None, as the compute the run spent.
    """
    crossings = [first_crossing(curve, level) for curve in curves]
    ends = [float(curve.compute_E[-1]) if budget is None else budget for curve in curves]
    counted = [end if crossing is None else crossing for crossing, end in zip(crossings, ends, strict=True)]
    return Crossing(float(np.mean(counted)), len(crossings), sum(crossing is None for crossing in crossings))


def crossing_ratio(own: Crossing, reference: Crossing) -> Ratio:
    """Divide one crossing by another, both found by the same smoothing and the same first-crossing rule.

    Dividing by the reference's whole budget instead would give an identical method a ratio of about .6.
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


def ratio_interval(own_S: Sequence[float], reference_S: Sequence[float]) -> tuple[float, float] | None:
    """Return the interval of the ratio of two paired means (Fieller 1954, with Student's t).

    None for fewer than two pairs, or if the reference's mean does not differ from 0 at this confidence: the
    interval would have no end.
    """
    from scipy import stats

    pairs = len(own_S)
    if pairs < 2:
        return None
    own, reference = float(np.mean(own_S)), float(np.mean(reference_S))
    (var_own, both), (_, var_reference) = np.cov(own_S, reference_S) / pairs
    t = float(stats.t.isf((1 - CONFIDENCE) / 2, pairs - 1))
    # The ratios q for which the mean of own - q reference is within t standard errors of 0: a parabola in q.
    a = reference**2 - t**2 * var_reference
    b = own * reference - t**2 * both
    c = own**2 - t**2 * var_own
    if a <= 0:
        return None
    half = float(np.sqrt(max(b**2 - a * c, 0.0)))
    return float((b - half) / a), float((b + half) / a)


def area(curve: Curve, low: float, high: float) -> float:
    """Return the mean height of the curve between two amounts of compute (trapezoids; ends interpolated)."""
    if high <= low:
        return float(np.interp(low, curve.compute_E, curve.accuracy_E))
    inside = (curve.compute_E > low) & (curve.compute_E < high)
    x = np.concatenate([[low], curve.compute_E[inside], [high]])
    y = np.interp(x, curve.compute_E, curve.accuracy_E)
    return float(np.trapezoid(y, x) / (high - low))


def area_difference(own: Curve, reference: Curve) -> float:
    """Return the difference of the areas over the compute that both curves cover."""
    low = max(own.compute_E[0], reference.compute_E[0])
    high = min(own.compute_E[-1], reference.compute_E[-1])
    return area(own, low, high) - area(reference, low, high)


def paired_interval(differences_S: Sequence[float]) -> Interval | None:
    """Return mean, two-sided t interval and t test of paired differences; None for fewer than two pairs."""
    from scipy import stats

    difference_S = np.asarray(differences_S, dtype=np.float64)
    pairs = len(difference_S)
    if pairs < 2:
        return None
    mean = float(difference_S.mean())
    # Equal, but for rounding: the t statistic is 0 / 0 or beyond any table.
    if np.ptp(difference_S) <= 1e-12 * np.abs(difference_S).max(initial=0.0):
        return Interval(mean, mean, mean, pairs, 0.0 if mean else 1.0)
    test = stats.ttest_1samp(difference_S, 0.0)
    low, high = test.confidence_interval(CONFIDENCE)
    return Interval(mean, float(low), float(high), pairs, float(test.pvalue))


def holm(p_values_C: Sequence[float], family: int | None = None) -> list[float]:
    """Adjust the p values of C comparisons by Holm's step-down procedure (1979); the order is kept.

    `family`: total number of comparisons, if there are more than these C (such as those of an earlier
    confirmation). The others count as if they had the smallest p values, which can only raise these.
    """
    family = max(len(p_values_C), family or 0)
    order = np.argsort(p_values_C, kind="stable")
    adjusted = [1.0] * len(p_values_C)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (family - rank) * p_values_C[index]))
        adjusted[index] = running
    return adjusted
