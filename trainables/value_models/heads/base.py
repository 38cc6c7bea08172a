"""The interface of all heads, and the rows that they read. NumPy only.

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
    """A policy's record as arrays: what it scored on which prompts."""

    features_NF: Float32
    rate_N: Float64
    """Mean reward of each row's rollouts."""
    count_N: Float64
    """Rollouts behind each mean; below 1 for rows that count less because they are old."""
    prompt_N: Int64
    """Number of each row's prompt; queries of the same prompt have the same number."""

    def __post_init__(self) -> None:
        lengths = {len(self.features_NF), len(self.rate_N), len(self.count_N), len(self.prompt_N)}
        if len(lengths) != 1:
            raise RecordError(f"context: columns of {sorted(lengths)} rows; give all the same number of rows")
        wrong = np.flatnonzero(~((self.rate_N >= 0.0) & (self.rate_N <= 1.0) & (self.count_N > 0.0)))
        if len(wrong):
            row = int(wrong[0])
            raise RecordError(
                f"context row {row}: mean reward {self.rate_N[row]} of {self.count_N[row]} rollouts; give a "
                "mean in [0, 1], of more than 0 rollouts"
            )

    def __len__(self) -> int:
        return len(self.rate_N)

    def take(self, index: slice | npt.NDArray[Any]) -> Context:
        """Return some of the rows, chosen by a slice, indices or a mask."""
        return replace(
            self,
            features_NF=self.features_NF[index],
            rate_N=self.rate_N[index],
            count_N=self.count_N[index],
            prompt_N=self.prompt_N[index],
        )

    @staticmethod
    def empty(width: int) -> Context:
        """Return a context without rows, for vectors of `width` numbers."""
        none = np.zeros(0)
        return Context(np.zeros((0, width), np.float32), none, none, np.zeros(0, np.int64))


@dataclass(frozen=True)
class Prediction:
    """Predicted P(r = 1) of each query."""

    mean_Q: Float64
    sd_Q: Float64 | None = None
    """Standard deviation of the true pass rate around `mean_Q`; None from heads that do not know it."""


class Head(ABC):
    """Predicts a policy's pass rates from its own record, after an optional `fit` on those of others."""

    kind: str
    """Name under which the head is chosen and saved."""

    def fit(self, records: Sequence[Context]) -> None:
        """Learn from the records of logged policies, one Context each. By default a head learns nothing.

        Raises:
            RecordError: the records do not suffice for this head.
        """
        return

    @abstractmethod
    def predict(self, context: Context, queries_QF: Float32, prompt_Q: Int64 | None = None) -> Prediction:
        """Predict P(r = 1 | query, context); never reads the queries' own outcomes.

        `prompt_Q`: the queries' prompts, numbered as in the context (negative or None: not in the context).

        Raises:
            RecordError: the context does not suffice for this head.
            ModelError: the head needs a fit, or a checkpoint that is missing.
        """

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Return settings (JSON) and arrays that `load` restores.

        Raises:
            RecordError: the head was not fitted, so there is nothing to save.
        """
        return {}, {}

    def load(self, settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Restore what `state` returned.

        Raises:
            ModelError: the arrays do not fit this head.
        """
        return


def squared_distances(left_AF: Float32, right_BF: Float32) -> Float32:
    """Return (A, B) squared Euclidean distances, none below 0."""
    left_A = (left_AF * left_AF).sum(1)
    right_B = (right_BF * right_BF).sum(1)
    product_AB: Float32 = left_AF @ right_BF.T
    product_AB *= -2.0
    product_AB += left_A[:, None]
    product_AB += right_B
    np.maximum(product_AB, 0.0, out=product_AB)
    return product_AB
