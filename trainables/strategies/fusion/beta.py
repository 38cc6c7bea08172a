"""Fusion `beta`: the prior counts as a fixed number of rollouts."""

from __future__ import annotations

from typing import ClassVar, Literal

from trainables.strategies.fusion.base import Baseline, Fusion, masked, required
from trainables.strategies.groups import Groups
from trainables.strategies.members.base import Member, Positive
from trainables.strategies.value_estimate import ValueEstimate


class BetaCounts(Member, Fusion):
    """(n0 V + k m) / (n0 + k): the prior counts as n0 rollouts (posterior mean of a Beta)."""

    type: Literal["beta"] = "beta"
    n0: Positive = 4.0
    leave_one_out: bool = False

    mixes_prior: ClassVar[bool] = True

    @property
    def leaves_out(self) -> bool:  # type: ignore[override]  # by a parameter, not by class
        return self.leave_one_out

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        estimate = required(estimate, self.type)
        w_P = groups.count_P / (groups.count_P + self.n0)
        if not self.leave_one_out:
            prior_P = estimate.for_prompts(groups)
            baseline_P = prior_P + w_P * (groups.mean_P - prior_P)
            return masked(baseline_P[groups.prompt_N], groups.mask_N, w_P)
        prior_N = estimate.for_rollouts(groups, leave_one_out=True)
        count_N, sum_N = groups.others()
        return masked((self.n0 * prior_N + sum_N) / (self.n0 + count_N), groups.mask_N, w_P)
