"""Routing: which model answers which prompt (V0, arXiv 2602.03584), and the front of accuracy and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainables.errors import RecordError
from trainables.value_models.heads.base import Context, Float32, Float64, Head, Int64


@dataclass(frozen=True)
class Point:
    """The routing at one value of beta. Shape: Q queries."""

    beta: float
    choice_Q: Int64
    """Number of the model that answers each query."""
    accuracy: float
    """Mean predicted pass rate of the chosen models."""
    cost: float
    """Mean cost of the chosen models, in the given units."""
    true_accuracy: float | None = None
    """Mean reward of the chosen models; None unless it is known for every query and model."""


def blended(record: Context, beta: float, cost: float) -> Context:
    """Return the record with labels r_beta = beta r + (1 - beta)(1 - cost); cost in [0, 1]."""
    return replace(record, rate_N=beta * record.rate_N + (1.0 - beta) * (1.0 - cost))


def route(
    head: Head,
    records: Sequence[Context],
    costs: Sequence[float],
    queries_QF: Float32,
    betas: Sequence[float],
    truth_QM: Float64 | None = None,
) -> list[Point]:
    """Route each query to the model with the largest V0 under that model's blended record.

    `records` and `costs`: one per model (M of them); costs are non-negative, in any unit, and are divided by
    the largest. `truth_QM`: mean rewards, if they are known. Returns one point per beta.

    Raises:
        RecordError: there are fewer than two records, a cost is below 0, or a beta is outside [0, 1].
    """
    _check(records, costs, betas)
    cost_M = np.asarray(costs, np.float64)
    scaled_M = cost_M / cost_M.max() if cost_M.max() > 0 else cost_M
    plain_QM = np.stack([head.predict(record, queries_QF).mean_Q for record in records], axis=1)
    points = []
    for beta in betas:
        worth_QM = np.stack(
            [
                head.predict(blended(record, beta, cost), queries_QF).mean_Q
                for record, cost in zip(records, scaled_M, strict=True)
            ],
            axis=1,
        )
        choice_Q = worth_QM.argmax(1)
        rows = np.arange(len(choice_Q))
        known = None if truth_QM is None else float(truth_QM[rows, choice_Q].mean())
        mean = float(plain_QM[rows, choice_Q].mean())
        points.append(Point(beta, choice_Q, mean, float(cost_M[choice_Q].mean()), known))
    return points


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in accuracy at the same or a lower cost, cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -_accuracy(p))):
        if not front or _accuracy(point) > _accuracy(front[-1]):
            front.append(point)
    return front


def draw(points: Sequence[Point], width: int = 60, height: int = 16) -> str:
    """Draw the points (o) and the Pareto front (*) as text: accuracy upwards, cost to the right."""
    costs, values = [p.cost for p in points], [_accuracy(p) for p in points]
    low_x, span_x = min(costs), max(max(costs) - min(costs), 1e-9)
    low_y, span_y = min(values), max(max(values) - min(values), 1e-9)
    grid = [[" "] * width for _ in range(height)]
    for mark, some in (("o", points), ("*", pareto(points))):
        for point in some:
            x = round((point.cost - low_x) / span_x * (width - 1))
            y = round((_accuracy(point) - low_y) / span_y * (height - 1))
            grid[height - 1 - y][x] = mark
    lines = ["".join(row).rstrip() for row in grid]
    lines = [
        f"{low_y + span_y * (height - 1 - i) / (height - 1):6.3f} |{line}" for i, line in enumerate(lines)
    ]
    axis = f"{low_x:<{width // 2}.4g}{low_x + span_x:>{width - width // 2}.4g}"
    return "\n".join([*lines, " " * 7 + "+" + "-" * width, " " * 8 + axis])


def _accuracy(point: Point) -> float:
    return point.accuracy if point.true_accuracy is None else point.true_accuracy


def _check(records: Sequence[Context], costs: Sequence[float], betas: Sequence[float]) -> None:
    if len(records) < 2:
        raise RecordError(f"route: {len(records)} record; give the records of at least two models")
    if len(costs) != len(records) or min(costs) < 0 or not np.isfinite(costs).all():
        raise RecordError(
            f"route: costs {list(costs)} of {len(records)} models; give each model a number from 0"
        )
    wrong = [beta for beta in betas if not 0.0 <= beta <= 1.0]
    if wrong or not betas:
        raise RecordError(
            f"route: beta {wrong or list(betas)}; give numbers from 0 (cheapest) to 1 (most accurate)"
        )
