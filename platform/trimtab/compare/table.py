"""The comparison of a sweep's configurations with its reference, from MLflow alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from trimtab.compare.read import RunRecord, SweepRecord, read_sweep
from trimtab.compare.statistics import (
    Crossing,
    Interval,
    Ratio,
    area_difference,
    crossing_ratio,
    final_accuracy,
    mean_crossing,
    paired_interval,
)

MIN_SEEDS = 3
"""Fewer paired seeds say nothing about a difference."""


@dataclass(frozen=True)
class Row:
    """One configuration. Statistics are over its finished runs only."""

    trial: str
    number: int
    label: str
    role: str
    parameters: dict[str, str]
    """Searched parameters."""
    seeds: tuple[int, ...]
    """Seeds of the finished runs."""
    unfinished: tuple[str, ...]
    """Status of every other run."""
    final_mean: float | None
    """Mean over seeds of a run's final accuracy (its last three evaluations)."""
    final_sd: float | None
    """Sample standard deviation over seeds; None for fewer than two."""
    rollouts: float | None
    """Training rollouts of one run, mean over seeds."""
    tokens: float | None
    crossing: Crossing | None
    """Rollouts to the reference's level; None without a reference or a finished run."""
    ratio: Ratio | None
    """Crossing divided by the reference's own crossing; below 1 is cheaper. None for the reference."""
    difference: Interval | None
    """Difference to the reference in mean accuracy over the curve, paired by seed. None for the reference."""
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """All configurations of a sweep: the reference first, then by difference to it."""

    sweep: str
    reference: str
    level: float | None
    """The reference's level: mean over its seeds of its final accuracy."""
    budget: int
    """Training rollouts of one run."""
    rows: tuple[Row, ...]


def comparison(
    tracking_uri: str, sweep_name: str, experiment: str = "trimtab", sweep_id: str | None = None
) -> Comparison:
    """Read a sweep from MLflow and compare. NotFoundError, TrackingError as in `read_sweep`."""
    return compare(read_sweep(tracking_uri, sweep_name, experiment, sweep_id))


def compare(sweep: SweepRecord) -> Comparison:
    """Every configuration against the reference, at equal compute."""
    groups = [list(runs) for _, runs in groupby(sweep.runs, key=lambda run: run.trial)]
    reference = [run for run in sweep.runs if run.role == "reference" and _counts(run)]
    level = float(np.mean([final_accuracy(run.curve.accuracy_E) for run in reference])) if reference else None
    rows = [_row(runs, reference, level) for runs in groups]
    return Comparison(
        sweep=sweep.sweep,
        reference=sweep.reference,
        level=level,
        budget=max((run.budget for run in sweep.runs), default=0),
        rows=tuple(sorted(rows, key=_order)),
    )


def _counts(run: RunRecord) -> bool:
    """A run that was stopped or failed has no final accuracy to compare."""
    return run.status == "finished" and len(run.curve.accuracy_E) > 0


def _order(row: Row) -> tuple[bool, bool, float, int]:
    gain = row.difference.mean if row.difference else 0.0
    return (row.role != "reference", row.difference is None, -gain, row.number)


def _row(runs: Sequence[RunRecord], reference: Sequence[RunRecord], level: float | None) -> Row:
    first = runs[0]
    counted = [run for run in runs if _counts(run)]
    finals = [final_accuracy(run.curve.accuracy_E) for run in counted]
    crossing = _crossing(counted, level)
    own = None if first.role == "reference" else _crossing(reference, level)
    difference = None if first.role == "reference" else _difference(counted, reference)
    return Row(
        trial=first.trial,
        number=first.number,
        label=first.label,
        role=first.role,
        parameters=first.parameters,
        seeds=tuple(run.seed for run in counted),
        unfinished=tuple(run.status for run in runs if run not in counted),
        final_mean=float(np.mean(finals)) if finals else None,
        final_sd=float(np.std(finals, ddof=1)) if len(finals) > 1 else None,
        rollouts=float(np.mean([run.rollouts for run in counted])) if counted else None,
        tokens=float(np.mean([run.tokens for run in counted])) if counted else None,
        crossing=crossing,
        ratio=crossing_ratio(crossing, own) if crossing and own else None,
        difference=difference,
        verdict="reference" if first.role == "reference" else _verdict(counted, reference, difference),
    )


def _crossing(runs: Sequence[RunRecord], level: float | None) -> Crossing | None:
    if level is None or not runs:
        return None
    return mean_crossing([run.curve for run in runs], level, runs[0].budget)


def _pairs(runs: Sequence[RunRecord], reference: Sequence[RunRecord]) -> list[tuple[RunRecord, RunRecord]]:
    by_seed = {run.seed: run for run in reference}
    return [(run, by_seed[run.seed]) for run in runs if run.seed in by_seed]


def _difference(runs: Sequence[RunRecord], reference: Sequence[RunRecord]) -> Interval | None:
    pairs = _pairs(runs, reference)
    return paired_interval([area_difference(own.curve, other.curve) for own, other in pairs])


def _verdict(runs: Sequence[RunRecord], reference: Sequence[RunRecord], difference: Interval | None) -> str:
    pairs = len(_pairs(runs, reference))
    if pairs < MIN_SEEDS or difference is None:
        return f"not enough evidence: {pairs} seed{'' if pairs == 1 else 's'}"
    if difference.low > 0:
        return "above"
    return "below" if difference.high < 0 else "not established"
