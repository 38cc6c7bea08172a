"""Prior `pool`: the mean of the step's other prompts (James-Stein's anchor, arXiv 2511.03710)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainables.strategies.batch import Batch
from trainables.strategies.groups import Groups
from trainables.strategies.priors.base import Prior, PriorMember
from trainables.strategies.scale import UNIT, Scale
from trainables.strategies.value_estimate import ValueEstimate


class PoolPrior(PriorMember):
    """Mean of the step's other prompts (James-Stein): leaves the prompt's own group out."""

    type: Literal["pool"] = "pool"

    def begin(self, scale: Scale) -> OtherPrompts:
        return OtherPrompts(scale)


@dataclass(frozen=True)
class OtherPrompts(Prior):
    """Mean of the other prompts' group means. Silent where no other prompt has a valid rollout."""

    scale: Scale = UNIT

    def predict(self, batch: Batch) -> ValueEstimate:
        groups = Groups.of(batch, self.scale)
        live_P = groups.count_P > 0
        mean_P = np.where(live_P, groups.mean_P, 0.0)
        others_P = live_P.sum() - live_P
        pool_P = np.divide(
            mean_P.sum() - mean_P, others_P, out=np.full(batch.prompts, np.nan), where=others_P > 0
        )
        # The difference of two sums may leave the range by a rounding error.
        pool_P = np.where(others_P > 0, np.clip(pool_P, self.scale.low, self.scale.high), np.nan)
        return ValueEstimate(mean_P=pool_P, silent_P=np.asarray(others_P == 0))
