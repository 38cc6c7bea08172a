"""Baselines from the prompt's own group alone: mean, leave-one-out, length-weighted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainables.errors import StrategyError
from trainables.strategies.fusion.base import Baseline, Fusion, masked
from trainables.strategies.groups import Groups
from trainables.strategies.value_estimate import ValueEstimate


@dataclass(frozen=True)
class GroupMean(Fusion):
    """b = m (GRPO, arXiv 2402.03300, section 4.1.2). Contains the scored rollout: couples at Var r / k."""

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        pair_P = groups.count_P >= 2
        scored_N = pair_P[groups.prompt_N] & groups.mask_N
        return masked(groups.mean_P[groups.prompt_N], scored_N, np.ones(groups.prompts))


@dataclass(frozen=True)
class LeaveOneOut(Fusion):
    """b_i = mean of the group's other rollouts (RLOO, arXiv 2402.14740, eq. 8)."""

    leaves_out = True

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        count_N, sum_N = groups.others()
        return masked(sum_N / np.maximum(count_N, 1.0), count_N >= 1, np.ones(groups.prompts))


@dataclass(frozen=True)
class LengthWeighted(Fusion):
    """b = sum(l r) / sum(l) over the group, l = response tokens (OPO, arXiv 2505.23585, section 3.2).

    The minimum-variance baseline if the squared gradient of a response grows with its length.
    """

    leave_one_out: bool = False

    @property
    def leaves_out(self) -> bool:  # type: ignore[override]
        return self.leave_one_out

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        if groups.length_N is None:
            raise StrategyError("fusion: 'length_weighted' needs response lengths; give Groups a length_N")
        length_N = np.where(groups.mask_N, groups.length_N, 0).astype(np.float64)
        top_N = groups.total(length_N * groups.value_N)[groups.prompt_N]
        bottom_N = groups.total(length_N)[groups.prompt_N]
        if self.leave_one_out:
            top_N, bottom_N = top_N - length_N * groups.value_N, bottom_N - length_N
        pair_N = (groups.count_P >= 2)[groups.prompt_N] & groups.mask_N & (bottom_N > 0)
        mean_N = np.divide(top_N, bottom_N, out=np.zeros(len(top_N)), where=bottom_N > 0)
        return masked(mean_N, pair_N, np.ones(groups.prompts))
