"""Prior `greedy`: the reward of one greedy rollout per prompt (ReMax, arXiv 2310.10505, algorithm 1)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from trainables.strategies.batch import Batch, Kind, Verdict
from trainables.strategies.groups import Groups
from trainables.strategies.priors.base import Prior, PriorMember
from trainables.strategies.scale import Scale
from trainables.strategies.value_estimate import ValueEstimate


class GreedyPrior(PriorMember, Prior):
    """Reward of one greedy rollout per prompt, drawn for the baseline only (ReMax). It is paid for.

    Silent where the greedy answer is missing or could not be verified.
    """

    type: Literal["greedy"] = "greedy"

    extra: ClassVar[Kind | None] = Kind.GREEDY
    extra_rollouts: ClassVar[int] = 1

    def begin(self, scale: Scale) -> GreedyPrior:
        return self

    def predict(self, batch: Batch) -> ValueEstimate:
        used_N = (batch.kind_N == Kind.GREEDY) & (batch.verdict_N == Verdict.OK)
        groups = Groups(batch.prompt_N, np.where(used_N, batch.correct_N, 0.0), batch.prompts, used_N)
        silent_P = groups.count_P == 0
        return ValueEstimate(mean_P=np.where(silent_P, np.nan, groups.mean_P), silent_P=np.asarray(silent_P))
