"""Fusion `group_mean`: the mean of the prompt's own group (GRPO, arXiv 2402.03300, section 4.1.2)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from trainables.strategies.fusion.base import Baseline, Fusion, masked
from trainables.strategies.groups import Groups
from trainables.strategies.members.base import Member
from trainables.strategies.value_estimate import ValueEstimate


class GroupMean(Member, Fusion):
    """Mean of the prompt's own group, the scored rollout included (GRPO, DAPO).

    b = m. It contains the scored rollout: advantage and reward couple at Var r / k.
    """

    type: Literal["group_mean"] = "group_mean"

    needs_pair: ClassVar[bool] = True

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        pair_P = groups.count_P >= 2
        scored_N = pair_P[groups.prompt_N] & groups.mask_N
        return masked(groups.mean_P[groups.prompt_N], scored_N, np.ones(groups.prompts))
