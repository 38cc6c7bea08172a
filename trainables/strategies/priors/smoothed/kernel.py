"""Prior `kernel`: a kernel mean of the prompt's own past rewards (KAE, arXiv 2604.28005).

    V(x) = sum_j K((i - i_j) / (i h)) r_j / sum_j K((i - i_j) / (i h))

in step i, over the rollouts j of earlier steps i_j; `triangular` K(u) = max(1 - u, 0), `exponential`
K(u) = exp(-u) (the paper's rho^u: another rho is another h). Every visit in reach is kept: four numbers.
Read: two summaries of the paper that give this equation, not its text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from trainables.strategies.batch import FloatArray
from trainables.strategies.members.base import Positive
from trainables.strategies.priors.base import PriorMember
from trainables.strategies.scale import Scale

if TYPE_CHECKING:
    from trainables.strategies.priors.smoothed.history import History


class KernelPrior(PriorMember):
    """Kernel mean of a prompt's own past rewards: recent steps weigh more (KAE)."""

    type: Literal["kernel"] = "kernel"
    bandwidth: Positive = 1.0
    """h: the kernel's width as a share of the steps so far."""
    shape: Literal["triangular", "exponential"] = "triangular"
    start: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Value estimate before any evidence, as a share of the reward range."""

    foresight: ClassVar[bool] = True

    def weight(self, age_V: FloatArray, step: int) -> FloatArray:
        """Return K of visits `age_V` steps before step `step`, which counts from 1."""
        away_V = age_V / (step * self.bandwidth)
        return np.maximum(1.0 - away_V, 0.0) if self.shape == "triangular" else np.exp(-away_V)

    def begin(self, scale: Scale) -> History:
        # It names this module for the type checker.
        from trainables.strategies.priors.smoothed.history import History

        return History(self, scale)
