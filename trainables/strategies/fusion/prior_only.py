"""Fusion `prior_only`: the prior itself is the baseline."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from trainables.strategies.fusion.base import Baseline, Fusion, masked, required
from trainables.strategies.groups import Groups
from trainables.strategies.members.base import Member
from trainables.strategies.value_estimate import ValueEstimate


class PriorOnly(Member, Fusion):
    """The prior as it is (SPO, PPO, ReMax)."""

    type: Literal["prior_only"] = "prior_only"
    leave_one_out: bool = False
    """For a prior that speaks per rollout: the mean over the group's *other* rollouts (POISE, arXiv
    2605.07579, algorithm 1). A rollout's own trajectory is correlated with its own reward, so reading it
    would bias the gradient."""

    leaves_out: ClassVar[bool] = True
    keeps_tokens: ClassVar[bool] = True
    mixes_prior: ClassVar[bool] = True

    @property
    def needs_pair(self) -> bool:  # type: ignore[override]  # by a parameter, not by class
        return self.leave_one_out

    @property
    def leaves_out_states(self) -> bool:
        return self.leave_one_out

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        prior_N = required(estimate, self.type).for_rollouts(groups, self.leave_one_out)
        return masked(prior_N, groups.mask_N, np.zeros(groups.prompts))
