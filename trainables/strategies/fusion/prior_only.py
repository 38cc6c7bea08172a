"""The prior itself as baseline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainables.strategies.fusion.base import Baseline, Fusion, masked, required
from trainables.strategies.groups import Groups
from trainables.strategies.value_estimate import ValueEstimate


@dataclass(frozen=True)
class PriorOnly(Fusion):
    """b = V (SPO, PPO, ReMax). With `leave_one_out`, a prior that speaks per rollout is averaged over the
    group's *other* rollouts (POISE, arXiv 2605.07579, algorithm 1): a rollout's own trajectory is correlated
    with its own reward, so reading it would bias the gradient.
    """

    leave_one_out: bool = False

    leaves_out = True
    keeps_tokens = True
    """Token value estimates stay per token: the estimator makes advantages of them."""

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        prior_N = required(estimate, "prior_only").for_rollouts(groups, self.leave_one_out)
        return masked(prior_N, groups.mask_N, np.zeros(groups.prompts))
