"""The reference's accuracy at equal compute, while a sweep runs."""

from __future__ import annotations

from bisect import bisect_left


class ReferenceCurve:
    """Mean over the reference's seeds of its accuracy, between evaluations by linear interpolation."""

    def __init__(self) -> None:
        self._points: dict[int, dict[int, float]] = {}
        self._ended: set[int] = set()

    def add(self, seed: int, rollouts: int, accuracy: float) -> None:
        """Enter one evaluation of the reference; one that is repeated after a restart replaces the first."""
        self._points.setdefault(seed, {})[rollouts] = accuracy

    def end(self, seed: int) -> None:
        """Enter that the reference's run has ended. Its last accuracy stands for what it left of its budget.

        A strategy that cannot use the last few rollouts of a step leaves them. Without this, a candidate
        that does use them would have nothing to be compared with at its own last evaluation.
        """
        self._ended.add(seed)

    def at(self, rollouts: int) -> float | None:
        """Return the mean accuracy after `rollouts`, over the seeds whose curve holds that point; or None."""
        values = [value for seed in self._points if (value := self._of_seed(seed, rollouts)) is not None]
        return sum(values) / len(values) if values else None

    def _of_seed(self, seed: int, rollouts: int) -> float | None:
        points = self._points[seed]
        if rollouts in points:
            return points[rollouts]
        xs = sorted(points)
        right = bisect_left(xs, rollouts)
        if right == len(xs):
            return points[xs[-1]] if seed in self._ended else None
        if right == 0:
            return None
        low, high = xs[right - 1], xs[right]
        share = (rollouts - low) / (high - low)
        return points[low] + share * (points[high] - points[low])
