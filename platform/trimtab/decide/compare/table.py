"""The comparison of configurations with a reference, from what MLflow holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np

from trimtab.decide.compare.read import Axis, TrackedRun, TrackedSweep
from trimtab.decide.compare.statistics import (
    CONFIDENCE,
    Crossing,
    Curve,
    Interval,
    Ratio,
    area,
    area_difference,
    crossing_ratio,
    final_accuracy,
    holm,
    mean_crossing,
    paired_interval,
    ratio_interval,
)
from trimtab.decide.compare.tuning import Tuned, tuned
from trimtab.errors import ComparisonError, NotFoundError
from trimtab.sweepdir.home import DEFAULT, command

MIN_SEEDS = 3
"""Fewer paired seeds say nothing about a difference."""

Compared = Literal["search", "confirm"]
Verdict = Literal["reference", "above", "below", "better", "worse", "not established", "not enough evidence"]
"""By one rule, the p value after Holm's correction. A confirmation finds `better`, `worse` or `not
established`. A search finds `above`, `below`, `not established`, or, with fewer than MIN_SEEDS paired seeds,
`not enough evidence`."""


@dataclass(frozen=True)
class Row:
    """One configuration. Its statistics cover its finished runs only."""

    sweep: str
    trial: str
    number: int
    label: str
    role: str
    family: str
    """Label of the reference or candidate that it is a configuration of."""
    strategy: str
    """Fingerprint of its strategy and settings; equal in a search and in its confirmation."""
    parameters: dict[str, str]
    """Searched parameters."""
    seeds: tuple[int, ...]
    """Seeds of the finished runs."""
    pairs: int
    """Seeds that both it and the reference finished."""
    unfinished: tuple[str, ...]
    """Status of every other run."""
    final_mean: float | None
    """Mean over seeds of the final accuracy, which is the mean of a run's last three evaluations."""
    final_sd: float | None
    """Sample standard deviation over seeds; None for fewer than two seeds."""
    score: float | None
    """What the search optimises: mean accuracy over the curve, mean over seeds."""
    rollouts: float | None
    """Training rollouts of one run, mean over seeds."""
    tokens: float | None
    seconds: float | None
    crossing: Crossing | None
    """Compute to the reference's level; None without a finished run of it or of the reference."""
    ratio: Ratio | None
    """Crossing divided by the reference's own; below 1 is cheaper. None for the reference."""
    warmup: float
    """Share of its updates in which its learned prior did not act yet; 1: it never did."""
    warmup_under: str
    """Strategy that trained meanwhile; empty: none, or only a critic."""
    difference: Interval | None
    """Mean accuracy over the curve minus the reference's, paired by seed. None for the reference."""
    p_adjusted: float | None
    """p value of that difference after Holm's correction over all configurations that are compared."""
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """All configurations: the reference first, then in order of their difference to it."""

    sweep: str
    reference: str
    by: Axis
    """Unit of compute."""
    purpose: Compared
    """`search`: the best of many, which looks better than it is; `confirm`: fresh seeds, test split."""
    confirms: str | None
    """The search whose best configurations this confirms."""
    split: str
    level: float | None
    """The reference's level: the mean over its seeds of its final accuracy."""
    budget: int
    """Training rollouts of one run."""
    family: int
    """Number of comparisons that Holm's correction counts."""
    tuning: tuple[Tuned, ...]
    """Who got how many configurations; empty for a confirmation, whose configurations are given."""
    differing: tuple[str, ...]
    """Settings that the runs of the sweeps do not share, such as `learner.lr: 0.0001 in a, 0.0002 in b`.
    Whatever is found may be due to these."""
    rows: tuple[Row, ...]


def compare(
    sweeps: TrackedSweep | Sequence[TrackedSweep], reference: str | None = None, family: int | None = None
) -> Comparison:
    """Compare every configuration of one or several sweeps with a reference, at equal compute.

    `reference`: label, trial or number of a configuration of the first sweep; by default that sweep's own.
    `family`: number of comparisons that Holm's correction counts, if there are others beside these.

    Raises:
        NotFoundError: the first sweep ran no such `reference`.
        ComparisonError: the sweeps differ in data or compute.
    """
    sweeps = [sweeps] if isinstance(sweeps, TrackedSweep) else list(sweeps)
    first = sweeps[0]
    key, label = _find_reference(first, reference)
    first = _one_reference(first, key)
    sweeps[0] = first
    theirs = [run for run in first.runs if run.trial == key]
    for sweep in sweeps[1:]:
        _check_comparable(first, sweep)
    counted = [run for run in theirs if _counts(run)]
    level = float(np.mean([final_accuracy(run.curve.accuracy_E) for run in counted])) if counted else None
    own = (first.sweep, key)
    rows = [
        _row(sweep.sweep, runs, counted, level, first.by, is_reference=(sweep.sweep, trial) == own)
        for sweep in sweeps
        for trial, runs in _configurations(sweep)
    ]
    purpose: Compared = "confirm" if all(sweep.purpose == "confirm" for sweep in sweeps) else "search"
    family = max(family or 0, sum(row.difference is not None for row in rows))
    return Comparison(
        sweep=", ".join(sweep.sweep for sweep in sweeps),
        reference=label,
        by=first.by,
        purpose=purpose,
        confirms=first.confirms,
        split=first.split,
        level=level,
        budget=max((run.budget for run in theirs or first.runs), default=0),
        family=family,
        tuning=tuned(rows) if purpose == "search" else (),
        differing=_differing(sweeps),
        rows=tuple(sorted(_judged(rows, purpose, family), key=_order)),
    )


def require_reference(comparison: Comparison, home: Path = DEFAULT) -> None:
    """Check that the reference has a finished run to compare with. The hints of the error are for `home`.

    Raises:
        ComparisonError: it has none.
    """
    if comparison.level is None:
        first = comparison.sweep.partition(",")[0]
        why, go_on = command(f"status {first}", home), command(f"resume {first}", home)
        raise ComparisonError(
            f"reference {comparison.reference!r} of sweep {comparison.sweep} has no finished run: there is "
            f"nothing to compare with; see why: {why}; then {go_on}, or name another with --reference"
        )


def _one_reference(sweep: TrackedSweep, key: str) -> TrackedSweep:
    """Count the reference's trials under fresh seeds as further seeds of the one trial that it is."""
    own = next((run for run in sweep.runs if run.trial == key), None)
    if own is None or not own.strategy:
        return sweep
    merged = [
        dataclasses.replace(run, trial=own.trial, number=own.number, label=own.label)
        if (run.family, run.strategy) == (own.family, own.strategy)
        else run
        for run in sweep.runs
    ]
    return dataclasses.replace(sweep, runs=tuple(sorted(merged, key=lambda run: (run.number, run.seed))))


def _configurations(sweep: TrackedSweep) -> list[tuple[str, list[TrackedRun]]]:
    return [(trial, list(runs)) for trial, runs in groupby(sweep.runs, key=lambda run: run.trial)]


def _find_reference(sweep: TrackedSweep, wanted: str | None) -> tuple[str, str]:
    """Return trial and label of the reference."""
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


def _check_comparable(first: TrackedSweep, other: TrackedSweep) -> None:
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


def _differing(sweeps: Sequence[TrackedSweep]) -> tuple[str, ...]:
    """Name the settings whose values in one sweep are not those in another."""
    known = [sweep for sweep in sweeps if any(run.settings for run in sweep.runs)]
    found = []
    for name in sorted({name for sweep in known for run in sweep.runs for name in run.settings}):
        values = {
            sweep.sweep: sorted({str(run.settings[name]) for run in sweep.runs if name in run.settings})
            for sweep in known
        }
        if len(set(map(tuple, values.values()))) > 1:
            found.append(
                f"{name}: " + ", ".join(f"{' or '.join(v) or '-'} in {s}" for s, v in values.items())
            )
    return tuple(found)


def _counts(run: TrackedRun) -> bool:
    """Tell whether the run counts: one that was stopped or failed has no final accuracy to compare."""
    return run.status == "finished" and len(run.curve.accuracy_E) > 0


def _order(row: Row) -> tuple[bool, bool, float, int]:
    gain = row.difference.mean if row.difference else 0.0
    return (row.verdict != "reference", row.difference is None, -gain, row.number)


def _row(
    sweep: str,
    runs: Sequence[TrackedRun],
    reference: Sequence[TrackedRun],
    level: float | None,
    by: Axis,
    *,
    is_reference: bool,
) -> Row:
    """Return a configuration's statistics; its verdict needs the p values of all others."""
    first = runs[0]
    counted = [run for run in runs if _counts(run)]
    finals = [final_accuracy(run.curve.accuracy_E) for run in counted]
    pairs = _pairs(counted, reference)
    crossing = _crossing(counted, level, by)
    return Row(
        sweep=sweep,
        trial=first.trial,
        number=first.number,
        label=first.label,
        role=first.role,
        family=first.family,
        strategy=first.strategy,
        parameters=first.parameters,
        seeds=tuple(run.seed for run in counted),
        pairs=len(pairs),
        unfinished=tuple(run.status for run in runs if run not in counted),
        final_mean=float(np.mean(finals)) if finals else None,
        final_sd=float(np.std(finals, ddof=1)) if len(finals) > 1 else None,
        score=_mean([_score(run.curve) for run in counted]),
        rollouts=_mean([run.rollouts for run in counted]),
        tokens=_mean([run.tokens for run in counted]),
        seconds=_mean([run.seconds for run in counted]),
        crossing=crossing,
        ratio=None if is_reference else _ratio(counted, reference, level, by),
        warmup=first.warmup.share(run.updates for run in counted) if first.warmup else 0.0,
        warmup_under=first.warmup.under if first.warmup else "",
        difference=None if is_reference else _difference(pairs),
        p_adjusted=None,
        verdict="reference" if is_reference else "not established",
    )


def _score(curve: Curve) -> float:
    return area(curve, float(curve.compute_E[0]), float(curve.compute_E[-1]))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _crossing(runs: Sequence[TrackedRun], level: float | None, by: Axis) -> Crossing | None:
    if level is None or not runs:
        return None
    return mean_crossing([run.curve for run in runs], level, runs[0].budget if by == "rollouts" else None)


def _ratio(
    runs: Sequence[TrackedRun], reference: Sequence[TrackedRun], level: float | None, by: Axis
) -> Ratio | None:
    own, theirs = _crossing(runs, level, by), _crossing(reference, level, by)
    if own is None or theirs is None:
        return None
    pairs = [(_crossing([a], level, by), _crossing([b], level, by)) for a, b in _pairs(runs, reference)]
    ends = ratio_interval([a.compute for a, b in pairs if a and b], [b.compute for a, b in pairs if a and b])
    ratio = crossing_ratio(own, theirs)
    return ratio if ends is None else dataclasses.replace(ratio, low=ends[0], high=ends[1])


def _pairs(
    runs: Sequence[TrackedRun], reference: Sequence[TrackedRun]
) -> list[tuple[TrackedRun, TrackedRun]]:
    by_seed = {run.seed: run for run in reference}
    return [(run, by_seed[run.seed]) for run in runs if run.seed in by_seed]


def _difference(pairs: Sequence[tuple[TrackedRun, TrackedRun]]) -> Interval | None:
    return paired_interval([area_difference(own.curve, other.curve) for own, other in pairs])


def _judged(rows: Sequence[Row], purpose: Compared, family: int) -> list[Row]:
    """Put in the adjusted p values and the verdicts."""
    adjusted = iter(holm([row.difference.p_value for row in rows if row.difference], family))
    judged = []
    for row in rows:
        p = next(adjusted) if row.difference else None
        verdict = "reference" if row.verdict == "reference" else _verdict(row, p, purpose)
        judged.append(dataclasses.replace(row, p_adjusted=p, verdict=verdict))
    return judged


def _verdict(row: Row, p: float | None, purpose: Compared) -> Verdict:
    if row.difference is None or p is None or row.pairs < MIN_SEEDS:
        return "not established" if purpose == "confirm" else "not enough evidence"
    if p > 1 - CONFIDENCE:
        return "not established"
    gains = row.difference.mean > 0
    if purpose == "search":
        # The same rule as in a confirmation, in other words: the best of many must be confirmed anyway.
        return "above" if gains else "below"
    return "better" if gains else "worse"
