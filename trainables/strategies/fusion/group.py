"""Baselines from the prompt's own group alone: mean, leave-one-out, length-weighted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainables.strategies.belief import Belief
from trainables.strategies.fusion.base import Baseline, Fusion, masked
from trainables.strategies.groups import Groups


@dataclass(frozen=True)
class GroupMean(Fusion):
    """b = m (GRPO, arXiv 2402.03300, section 4.1.2). Contains the scored rollout: couples at Var r / k."""

    def fuse(self, groups: Groups, belief: Belief | None) -> Baseline:
        pair_P = groups.count_P >= 2
        scored_N = pair_P[groups.prompt_N] & groups.mask_N
        return masked(groups.mean_P[groups.prompt_N], scored_N, np.ones(groups.prompts))


@dataclass(frozen=True)
class LeaveOneOut(Fusion):
    """b_i = mean of the group's other rollouts (RLOO, arXiv 2402.14740, eq. 8)."""

    leaves_out = True

    def fuse(self, groups: Groups, belief: Belief | None) -> Baseline:
        count_N, sum_N = groups.others()
        return masked(sum_N / np.maximum(count_N, 1.0), count_N >= 1, np.ones(groups.prompts))
