"""The comparison of configurations with a reference, from MLflow alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.decide.compare.read import Axis, RunRecord, SweepRecord, read_sweep
from trimtab.decide.compare.statistics import (
    CONFIDENCE,
    Crossing,
    Interval,
    Ratio,
    area_difference,
    crossing_ratio,
    final_accuracy,
    holm,
    mean_crossing,
    paired_interval,
)
from trimtab.errors import ComparisonError, NotFoundError
from trimtab.sweepdir.home import DEFAULT, command

MIN_SEEDS = 3
"""Fewer paired seeds say nothing about a difference."""


@dataclass(frozen=True)
class Row:
    """One configuration. Statistics are over its finished runs only."""

    sweep: str
    trial: str
    number: int
    label: str
    role: str
    strategy: str
    """Fingerprint of its strategy; the same in a search and in its confirmation."""
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
    seconds: float | None
    crossing: Crossing | None
    """Compute to the reference's level; None without a reference or a finished run."""
    ratio: Ratio | None
    """Crossing divided by the reference's own crossing; below 1 is cheaper. None for the reference."""
    difference: Interval | None
    """Difference to the reference in mean accuracy over the curve, paired by seed. None for the reference."""
    p_adjusted: float | None
    """p value of that difference after Holm's correction over all configurations that are compared."""
    verdict: str
    """Confirmed: `better`, `worse`, `not established`. Search only: `above`, `below`, ..."""


@dataclass(frozen=True)
class Comparison:
    """All configurations: the reference first, then by difference to it."""

    sweep: str
    reference: str
    by: Axis
    """What compute is counted in."""
    purpose: str
    """`search`: the best of many, which looks better than it is; `confirm`: fresh seeds, test split."""
    confirms: str | None
    """The search whose best configurations this confirms."""
    split: str
    level: float | None
    """The reference's level: mean over its seeds of its final accuracy."""
    budget: int
    """Training rollouts of one run."""
    family: int
    """Comparisons that Holm's correction counts."""
    rows: tuple[Row, ...]


def comparison(
    tracking_uri: str,
    sweep_name: str,
    experiment: str = "trimtab",
    sweep_id: str | None = None,
    by: Axis = "rollouts",
) -> Comparison:
    """Read a sweep from MLflow and compare. NotFoundError, TrackingError as in `read_sweep`."""
    return compare([read_sweep(tracking_uri, sweep_name, experiment, sweep_id, by)])


def compare(
    sweeps: SweepRecord | Sequence[SweepRecord], reference: str | None = None, family: int | None = None
) -> Comparison:
    """Every configuration of one or several sweeps against a reference, at equal compute.

    `reference`: label, trial or number of a configuration of the first sweep; default: that sweep's own.
    NotFoundError: it is none of them. ComparisonError: the sweeps ran on other data or with other compute.
    """
    sweeps = [sweeps] if isinstance(sweeps, SweepRecord) else list(sweeps)
    first = sweeps[0]
    groups = [(sweep.sweep, list(runs)) for sweep in sweeps for _, runs in _configurations(sweep)]
    key, label = _find_reference(first, reference)
    theirs = [run for run in first.runs if run.trial == key]
    for sweep in sweeps[1:]:
        _check_comparable(first, sweep)
    counted = [run for run in theirs if _counts(run)]
    level = float(np.mean([final_accuracy(run.curve.accuracy_E) for run in counted])) if counted else None
    rows = [_row(name, runs, counted, level, first.by, (first.sweep, key)) for name, runs in groups]
    found = Comparison(
        sweep=", ".join(sweep.sweep for sweep in sweeps),
        reference=label,
        by=first.by,
        purpose="confirm" if all(sweep.purpose == "confirm" for sweep in sweeps) else "search",
        confirms=first.confirms,
        split=first.split,
        level=level,
        budget=max((run.budget for run in theirs or first.runs), default=0),
        family=max(family or 0, sum(row.difference is not None for row in rows)),
        rows=tuple(sorted(rows, key=_order)),
    )
    return _judged(found)


def require_reference(comparison: Comparison, home: Path = DEFAULT) -> None:
    """ComparisonError unless the reference has a finished run to compare with; its hints are for `home`."""
    if comparison.level is None:
        first = comparison.sweep.partition(",")[0]
        why, go_on = command(f"status {first}", home), command(f"resume {first}", home)
        raise ComparisonError(
            f"reference {comparison.reference!r} of sweep {comparison.sweep} has no finished run: there is "
            f"nothing to compare with; see why: {why}; then {go_on}, or name another with --reference"
        )


def _configurations(sweep: SweepRecord) -> Any:
    return groupby(sweep.runs, key=lambda run: run.trial)


def _find_reference(sweep: SweepRecord, wanted: str | None) -> tuple[str, str]:
    """Trial and label of the reference."""
    if wanted is None or wanted == sweep.reference:
        trial = next((run.trial for run in sweep.runs if run.role == "reference"), "")
        return trial, sweep.reference
    for run in sweep.runs:
        if wanted in (run.label, run.trial, str(run.number)):
            return run.trial, run.label
    known = sorted({f"{run.number} {run.label}" for run in sweep.runs})
    raise NotFoundError(
        f"--reference: {wanted!r} did not run in sweep {sweep.sweep!r}; its configurations (number, label): "
        f"{', '.join(known) or 'none'}"
    )


def _check_comparable(first: SweepRecord, other: SweepRecord) -> None:
    if first.split != other.split:
        raise ComparisonError(
            f"sweep {other.sweep!r} was evaluated on the {other.split} split and {first.sweep!r} on the "
            f"{first.split} split; compare searches with searches and confirmations with confirmations"
        )
    if not (first.runs and other.runs):
        return
    mine, theirs = first.runs[0], other.runs[0]
    differing = {
        name: (mine.shared.get(name), theirs.shared.get(name))
        for name in sorted({*mine.shared, *theirs.shared})
        if mine.shared.get(name) != theirs.shared.get(name)
    }
    if mine.budget != theirs.budget:
        differing["budget (rollouts)"] = (mine.budget, theirs.budget)
    if differing:
        listed = "; ".join(f"{name} {a} against {b}" for name, (a, b) in differing.items())
        raise ComparisonError(
            f"sweep {other.sweep!r} cannot be compared with {first.sweep!r}: {listed}; run one of them again "
            "with the other's settings"
        )


def _counts(run: RunRecord) -> bool:
    """A run that was stopped or failed has no final accuracy to compare."""
    return run.status == "finished" and len(run.curve.accuracy_E) > 0


def _order(row: Row) -> tuple[bool, bool, float, int]:
    gain = row.difference.mean if row.difference else 0.0
    return (row.verdict != "reference", row.difference is None, -gain, row.number)


def _row(
    sweep: str,
    runs: Sequence[RunRecord],
    reference: Sequence[RunRecord],
    level: float | None,
    by: Axis,
    reference_key: tuple[str, str],
) -> Row:
    first = runs[0]
    counted = [run for run in runs if _counts(run)]
    finals = [final_accuracy(run.curve.accuracy_E) for run in counted]
    is_reference = (sweep, first.trial) == reference_key
    crossing = _crossing(counted, level, by)
    own = None if is_reference else _crossing(reference, level, by)
    return Row(
        sweep=sweep,
        trial=first.trial,
        number=first.number,
        label=first.label,
        role=first.role,
        strategy=first.strategy,
        parameters=first.parameters,
        seeds=tuple(run.seed for run in counted),
        unfinished=tuple(run.status for run in runs if run not in counted),
        final_mean=float(np.mean(finals)) if finals else None,
        final_sd=float(np.std(finals, ddof=1)) if len(finals) > 1 else None,
        rollouts=_mean([run.rollouts for run in counted]),
        tokens=_mean([run.tokens for run in counted]),
        seconds=_mean([run.seconds for run in counted]),
        crossing=crossing,
        ratio=crossing_ratio(crossing, own) if crossing and own else None,
        difference=None if is_reference else _difference(counted, reference),
        p_adjusted=None,
        verdict="reference" if is_reference else f"{len(_pairs(counted, reference))}",
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _crossing(runs: Sequence[RunRecord], level: float | None, by: Axis) -> Crossing | None:
    if level is None or not runs:
        return None
    return mean_crossing([run.curve for run in runs], level, runs[0].budget if by == "rollouts" else None)


def _pairs(runs: Sequence[RunRecord], reference: Sequence[RunRecord]) -> list[tuple[RunRecord, RunRecord]]:
    by_seed = {run.seed: run for run in reference}
    return [(run, by_seed[run.seed]) for run in runs if run.seed in by_seed]


def _difference(runs: Sequence[RunRecord], reference: Sequence[RunRecord]) -> Interval | None:
    pairs = _pairs(runs, reference)
    return paired_interval([area_difference(own.curve, other.curve) for own, other in pairs])


def _judged(comparison: Comparison) -> Comparison:
    """Put the verdicts in, once all p values are known."""
    tested = [row for row in comparison.rows if row.difference is not None]
    adjusted = holm([row.difference.p_value for row in tested if row.difference], comparison.family)
    by_row = {(row.sweep, row.trial): p for row, p in zip(tested, adjusted, strict=True)}
    confirmed = comparison.purpose == "confirm"
    rows = []
    for row in comparison.rows:
        p = by_row.get((row.sweep, row.trial))
        verdict = row.verdict if row.verdict == "reference" else _verdict(row, p, confirmed=confirmed)
        rows.append(dataclasses.replace(row, p_adjusted=p, verdict=verdict))
    return dataclasses.replace(comparison, rows=tuple(rows))


def _verdict(row: Row, p: float | None, *, confirmed: bool) -> str:
    pairs = row.difference.pairs if row.difference else int(row.verdict)
    if pairs < MIN_SEEDS or row.difference is None or p is None:
        seeds = f"{pairs} seed{'' if pairs == 1 else 's'}"
        return f"not established: {seeds}" if confirmed else f"not enough evidence: {seeds}"
    if not confirmed:
        # An interval of its own for each: whoever picks the best of them must confirm it anyway.
        if row.difference.low > 0:
            return "above"
        return "below" if row.difference.high < 0 else "not established"
    if p > 1 - CONFIDENCE:
        return "not established"
    return "better" if row.difference.mean > 0 else "worse"
