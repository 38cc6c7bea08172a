"""Fusion `ebpo`: empirical-Bayes shrinkage (EBPO, arXiv 2602.05165)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from trainables.errors import StrategyError
from trainables.strategies.fusion.base import Baseline, Fusion, masked, required
from trainables.strategies.groups import Groups
from trainables.strategies.members.base import Member, Point
from trainables.strategies.priors.base import PriorMember
from trainables.strategies.value_estimate import ValueEstimate


class Ebpo(Member, Fusion):
    """Empirical-Bayes shrinkage of the group mean to a running global mean (arXiv 2602.05165).

    The group mean leans on the global mean by (sigma2 / k) / (sigma2 / k + tau2), sigma2 within and tau2
    between prompts, both from past steps.
    """

    type: Literal["ebpo"] = "ebpo"

    mixes_prior: ClassVar[bool] = True

    def check(self, beside: Point) -> None:
        prior = beside.prior
        if isinstance(prior, PriorMember) and not prior.gives_spread:
            raise ValueError(
                f"prior: {prior.type!r} under fusion 'ebpo', which needs the spread between and "
                f"within prompts; set prior to global or strata"
            )

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        """Return baselines of (N,) rollouts.

        Raises:
            StrategyError: the prior of the user's own gives no `sd_P` or `within_P`.
        """
        estimate = required(estimate, self.type)
        if estimate.sd_P is None or estimate.within_P is None:
            raise StrategyError(
                "strategy.prior: gives no sd_P and within_P, which fusion 'ebpo' weighs by; "
                "set prior to global"
            )
        prior_P, tau2_P = estimate.for_prompts(groups), estimate.sd_P**2
        noise_P = estimate.within_P / np.maximum(groups.count_P, 1.0)
        total_P = tau2_P + noise_P
        # Both variances zero: the group's mean and the global one are certain, so equal; either will do.
        w_P = np.divide(tau2_P, total_P, out=np.zeros(groups.prompts), where=total_P > 0)
        baseline_P = prior_P + w_P * (groups.mean_P - prior_P)
        return masked(baseline_P[groups.prompt_N], groups.mask_N, w_P)
