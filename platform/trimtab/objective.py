"""The one scalar that a sweep optimises and prunes by.

score = mean over the seeds so far of the area under the accuracy-compute curve, each divided by the compute
it covers: the mean validation accuracy while the budget was being spent. It rewards being fast and ending
high, needs no target level, and is defined at every evaluation.

The seeds of one configuration run one after another, so at equal compute every trial has trained the same
seeds equally far: trials are compared like with like at every rung.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


def area(rollouts: Sequence[float], accuracy: Sequence[float]) -> float:
    """Mean of a curve over its compute: trapezoids, divided by the compute between first and last point.

    A single point is its own mean. Raises ValueError on an empty curve.
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
    seeds: Sequence[int]
    _points: dict[int, dict[int, float]] = field(default_factory=dict)

    def add(self, seed: int, rollouts: int, accuracy: float) -> None:
        """Enter one evaluation. A repeated one (after a resume) replaces the first."""
        self._points.setdefault(seed, {})[rollouts] = accuracy

    def score(self) -> float | None:
        """The objective so far; None before the first evaluation."""
        if not self._points:
            return None
        areas = []
        for points in self._points.values():
            at = sorted(points)
            areas.append(area(at, [points[r] for r in at]))
        return sum(areas) / len(areas)

    def figures(self) -> dict[str, float]:
        """What Tune sees. `rollouts` counts over all seeds and only ever grows."""
        score = self.score()
        last = [points[max(points)] for points in self._points.values()]
        return {
            "score": float("nan") if score is None else score,
            "accuracy": sum(last) / len(last) if last else float("nan"),
            "rollouts": float(sum(max(points) for points in self._points.values())),
        }
