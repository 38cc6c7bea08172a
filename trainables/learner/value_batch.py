"""What the loop hands to the critic. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from trainables.learner.tokens import Float32, Int32, TokenBatch, take_ragged


@dataclass(frozen=True)
class ValueBatch:
    """Rollouts and the values that their states should have."""

    tokens: TokenBatch
    target_M: Float32
    """Target of the state that each response token is drawn from, in reward units; NaN = none."""
    denominator: float
    """What the sum of the losses is divided by; the same on every rank."""
    old_M: Float32 | None = None
    """Values before the step's updates, from which `CriticNeeds.clip` measures; None = not clipped."""

    def take(self, rows: npt.NDArray[np.int64]) -> ValueBatch:
        """Return the given rollouts, in the given order."""
        length_N = self.tokens.response_length_N
        old_M = None if self.old_M is None else take_ragged(self.old_M, length_N, rows)
        target_M = take_ragged(self.target_M, length_N, rows)
        return ValueBatch(self.tokens.take(rows), target_M, self.denominator, old_M)


def positions(target_M: Float32, length_N: Int32, level: Literal["token", "prompt"]) -> float:
    """Count the fitted positions with a target: of every token, or of each rollout's first. At least 1."""
    first_N = np.cumsum(length_N) - length_N
    fitted = target_M if level == "token" else target_M[first_N]
    return float(max(1, int(np.isfinite(fitted).sum())))
