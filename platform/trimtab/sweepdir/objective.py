"""The one scalar that a sweep optimises and prunes by.

score = mean over the seeds of the area under the accuracy-compute curve, each divided by the compute it
covers: the mean validation accuracy while the budget was being spent. It rewards being fast and ending high,
needs no target level, and is defined at every evaluation.

The seeds of one configuration run one after another in one trial. While a seed is under way it counts by the
share of its budget that it has spent, so that at every rung every trial is judged by the same compute of the
same seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


def area(rollouts: Sequence[float], accuracy: Sequence[float]) -> float:
    """Return the mean of a curve over its compute: trapezoids, divided by the compute between its ends.

    A single point is its own mean.

    Raises:
        ValueError: the curve is empty.
    """
    if not rollouts:
        raise ValueError("area: the curve is empty")
    width = rollouts[-1] - rollouts[0]
    if width == 0:
        return float(accuracy[-1])
    total = 0.0
    for i in range(1, len(rollouts)):
        total += (rollouts[i] - rollouts[i - 1]) * (accuracy[i] + accuracy[i - 1]) / 2
    return total / width


@dataclass
class Curves:
    """Validation accuracy of one configuration, seed by seed."""

    budget: int
    """Rollouts of one seed's run."""
    rung: int
    """Rollouts between evaluations; trials are compared at multiples of it."""
    _points: dict[int, dict[int, float]] = field(default_factory=dict)
    _finished: set[int] = field(default_factory=set)

    def add(self, seed: int, rollouts: int, accuracy: float) -> None:
        """Enter one evaluation. A repeated one (after a resume) replaces the first."""
        self._points.setdefault(seed, {})[rollouts] = accuracy

    def finish(self, seed: int) -> None:
        """Note that this seed's run has ended with its budget spent."""
        self._finished.add(seed)

    def has_finished(self, seed: int) -> bool:
        return seed in self._finished

    def score(self) -> float | None:
        """Return the objective so far; None before the first evaluation."""
        if not self._points:
            return None
        areas = {seed: _area(points) for seed, points in self._points.items()}
        weights = {seed: self._reached(seed) / self.budget for seed in areas}
        total = sum(weights.values())
        if total == 0:
            return sum(areas.values()) / len(areas)
        return sum(weights[seed] * areas[seed] for seed in areas) / total

    def reached(self) -> int:
        """Return the rung of the trial: rollouts over all seeds, those of the running one rounded down."""
        return sum(self._reached(seed) for seed in self._points)

    def metrics(self) -> dict[str, float]:
        """Return what Tune sees. `rung` counts over all seeds and only ever grows."""
        score = self.score()
        last = [points[max(points)] for points in self._points.values()]
        return {
            "score": float("nan") if score is None else score,
            "accuracy": sum(last) / len(last) if last else float("nan"),
            "rollouts": float(sum(max(points) for points in self._points.values())),
            "rung": float(self.reached()),
        }

    def _reached(self, seed: int) -> int:
        """Return a run's rung. A finished run counts whole although it may leave a rest unspent."""
        if seed in self._finished:
            return self.budget
        return min(max(self._points[seed]) // self.rung * self.rung, self.budget)


def _area(points: dict[int, float]) -> float:
    at = sorted(points)
    return area(at, [points[r] for r in at])
