"""The runs behind the page, by arm, and what is measured of a run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks.results.run import HOME, Source
from trainables.models.slips import carries
from trainables.value_models.records import read_prompts, read_rows
from trimtab.decide.compare.read import Store, TrackedRun, TrackedSweep
from trimtab.decide.compare.statistics import (
    Interval,
    area_difference,
    final_accuracy,
    paired_interval,
)
from trimtab.decide.compare.table import Comparison, compare
from trimtab.decide.report.series import metric_curve
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepdir.home import tracking_uri
from trimtab.tracking.store import connect

Measure = Callable[[TrackedRun], float | None]
"""One number of a run; None where it was not measured."""
LATE = 2 / 3
"""Share of a run after which it counts as late."""
HARD_CARRIES = 2
"""Carries of a hard addition: the tiny model slips in two of three (`trainables/models/slips.py`)."""


@dataclass(frozen=True)
class Arm:
    """One strategy at the settings that the search chose for it."""

    name: str
    settings: str
    """What the search chose, such as `lr=0.0004`."""
    runs: tuple[TrackedRun, ...]


class Bed:
    """One sweep of the page, with its confirmation."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.store = Store(tracking_uri(HOME, None))
        self.client = connect(self.store.uri)

    @cached_property
    def searched(self) -> TrackedSweep:
        return self.store.sweep(self.source.sweep)

    @cached_property
    def judged(self) -> TrackedSweep:
        return self.store.sweep(self.source.judged) if self.source.confirmed else self.searched

    @cached_property
    def comparison(self) -> Comparison:
        """Everything against the sweep's own reference."""
        return compare(self.judged)

    def against(self, arm: str) -> Comparison:
        """Return everything against one arm."""
        return compare(self.judged, self.arms[arm].runs[0].trial)

    @cached_property
    def arms(self) -> Mapping[str, Arm]:
        """Finished runs by arm, in the spec's order."""
        chosen = {run.strategy: run for run in self.searched.runs}
        runs: dict[str, list[TrackedRun]] = {}
        settings: dict[str, str] = {}
        for run in self.judged.runs:
            origin = chosen[run.strategy]
            if run.status == "finished":
                runs.setdefault(origin.family, []).append(run)
                settings[origin.family] = _settings(origin)
        order = dict.fromkeys(run.family for run in self.searched.runs)
        return {name: Arm(name, settings[name], tuple(runs[name])) for name in order if name in runs}

    @cached_property
    def _family(self) -> Mapping[str, str]:
        """Arms by the fingerprint of strategy and settings, which a search and its confirmation share."""
        return {run.strategy: run.family for run in self.searched.runs}

    def name_of(self, trial: str) -> str:
        """Return the arm of a trial of the judged sweep."""
        return next(self._family[run.strategy] for run in self.judged.runs if run.trial == trial)

    def mean_of(self, metric: str, since: float = 0.0) -> Measure:
        """Measure the mean of a metric over the steps after a share of the run."""

        def measure(run: TrackedRun) -> float | None:
            compute_E, value_E = metric_curve(self.client, run, metric, "rollouts")
            late_E = value_E[compute_E >= since * run.budget]
            return float(late_E.mean()) if len(late_E) else None

        return measure

    def hard_rate(self, run: TrackedRun) -> float | None:
        """Measure the mean pass rate of hard training prompts in the last third of a run's steps."""
        folder = SweepDir.of(HOME, self.judged.sweep).path / "trials" / run.trial / f"seed-{run.seed}"
        hard = {key for key, text in read_prompts(folder / "prompts.json").items() if _is_hard(text)}
        rows = read_rows(folder / "record.jsonl")
        late = LATE * (max(row.step for row in rows) + 1)
        rates: dict[str, list[float]] = {}
        for row in rows:
            if row.step >= late and row.key in hard:
                rates.setdefault(row.key, []).append(row.rate)
        # The mean of prompts and not of rollouts: an allocation that samples some more often is no bias.
        return float(np.mean([np.mean(rate) for rate in rates.values()])) if rates else None


def final(run: TrackedRun) -> float | None:
    """Measure a run's final accuracy."""
    return final_accuracy(run.curve.accuracy_E)


def mean_interval(arm: Arm, measure: Measure) -> Interval | None:
    """Return the mean of a measure over seeds and its interval."""
    return paired_interval([value for run in arm.runs if (value := measure(run)) is not None])


def difference(own: Arm, other: Arm, measure: Measure) -> Interval | None:
    """Return the mean difference of a measure, paired by seed."""
    pairs = ((measure(a), measure(b)) for a, b in paired(own, other))
    return paired_interval([a - b for a, b in pairs if a is not None and b is not None])


def curve_difference(own: Arm, other: Arm) -> Interval | None:
    """Return the mean difference of accuracy over the curve, paired by seed."""
    return paired_interval([area_difference(a.curve, b.curve) for a, b in paired(own, other)])


def paired(own: Arm, other: Arm) -> Sequence[tuple[TrackedRun, TrackedRun]]:
    """Return the runs of two arms under the same seeds."""
    by_seed = {run.seed: run for run in other.runs}
    return [(run, by_seed[run.seed]) for run in own.runs if run.seed in by_seed]


def _settings(run: TrackedRun) -> str:
    prefix = f"{run.family}."
    values = {key.removeprefix(prefix): value for key, value in run.parameters.items() if prefix in key}
    return ", ".join(f"{key.removeprefix('learner.')}={value}" for key, value in sorted(values.items()))


def _is_hard(text: str) -> bool:
    found = re.fullmatch(r"(\d+)\+(\d+)=", text)
    if found is None:
        raise ValueError(f"{text!r} is no addition; hard prompts are known of additions only")
    return carries(int(found[1]), int(found[2])) >= HARD_CARRIES
