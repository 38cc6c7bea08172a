"""The one interface of all heads, and the rows they read. NumPy only.

Shapes: N context rows, Q queries, F features. Outcomes and predictions are mean rewards in [0, 1].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from trainables.errors import RecordError

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Context:
    """A policy's record: what it scored on which prompts."""

    features_NF: Float32
    rate_N: Float64
    """Mean reward of each row's rollouts."""
    count_N: Float64
    """Rollouts behind each mean; less than 1 for rows that count less (stale ones)."""
    prompt_N: Int64
    """Rows of the same prompt share a number, and share it with queries of that prompt."""

    def __post_init__(self) -> None:
        lengths = {len(self.features_NF), len(self.rate_N), len(self.count_N), len(self.prompt_N)}
        if len(lengths) != 1:
            raise RecordError(f"context: columns of {sorted(lengths)} rows; all must have the same number")
        wrong = np.flatnonzero(~((self.rate_N >= 0.0) & (self.rate_N <= 1.0) & (self.count_N > 0.0)))
        if len(wrong):
            row = int(wrong[0])
            raise RecordError(
                f"context row {row}: mean reward {self.rate_N[row]} of {self.count_N[row]} rollouts; it must "
                f"be in [0, 1], of more than 0 rollouts"
            )

    def __len__(self) -> int:
        return len(self.rate_N)

    def take(self, index: slice | npt.NDArray[Any]) -> Context:
        """Some of the rows: a slice, indices or a mask."""
        return replace(
            self,
            features_NF=self.features_NF[index],
            rate_N=self.rate_N[index],
            count_N=self.count_N[index],
            prompt_N=self.prompt_N[index],
        )

    @staticmethod
    def empty(width: int) -> Context:
        none = np.zeros(0)
        return Context(np.zeros((0, width), np.float32), none, none, np.zeros(0, np.int64))


@dataclass(frozen=True)
class Prediction:
    """P(r = 1) of each query."""

    mean_Q: Float64
    sd_Q: Float64 | None = None
    """Standard deviation of the query's true pass rate around `mean_Q`, where the head knows it."""


class Head(ABC):
    """`fit` once on other policies' records (optional), `predict` with a policy's own record, no gradient."""

    kind: str
    """Name under which it is chosen and saved."""

    def fit(self, records: Sequence[Context]) -> None:
        """Learn from the records of logged policies, one Context each. The default needs none."""
        return

    @abstractmethod
    def predict(self, context: Context, queries_QF: Float32, prompt_Q: Int64 | None = None) -> Prediction:
        """P(r = 1 | query, context). `prompt_Q` numbers the queries' prompts as the context does (negative
        or None: a prompt that is not in the context). Never reads the queries' own outcomes."""

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Settings (JSON) and arrays that `load` restores."""
        return {}, {}

    def load(self, settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        """What `state` returned."""
        return


def squared_distances(left_AF: Float32, right_BF: Float32) -> Float32:
    """(A, B) squared Euclidean distances, never negative."""
    left_A = (left_AF * left_AF).sum(1)
    right_B = (right_BF * right_BF).sum(1)
    product_AB: Float32 = left_AF @ right_BF.T
    product_AB *= -2.0
    product_AB += left_A[:, None]
    product_AB += right_B
    np.maximum(product_AB, 0.0, out=product_AB)
    return product_AB
