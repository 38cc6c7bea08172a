"""Fusion `evidence`: the prior counts as the rollouts that it rests on (KAE, arXiv 2604.28005).

    b = (n V + s) / (n + k - 1)

V: the prior's mean, n: its weighted rollouts; s: reward sum of the group's k - 1 other rollouts. Under the
prior `kernel` it is KAE's estimate, in which a rollout of this step weighs K(0) = 1 and the scored one is
left out. Read: two summaries of the paper that give this equation. n = 0 and k = 1 leave the prior's mean.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from trainables.errors import StrategyError
from trainables.strategies.fusion.base import Baseline, Fusion, masked, required
from trainables.strategies.groups import Groups
from trainables.strategies.members.base import Member, Point
from trainables.strategies.value_estimate import ValueEstimate


class Evidence(Member, Fusion):
    """The prior's rollouts and the group's other ones, pooled (KAE). Unbiased."""

    type: Literal["evidence"] = "evidence"

    leaves_out: ClassVar[bool] = True
    mixes_prior: ClassVar[bool] = True

    def check(self, beside: Point) -> None:
        if beside.prior.type not in ("kernel", "custom"):
            raise ValueError(
                f"prior: {beside.prior.type!r} under fusion 'evidence', which weighs the prior by the "
                f"rollouts that it counts; set prior to kernel, or fusion to beta"
            )

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        """Return baselines of (N,) rollouts.

        Raises:
            StrategyError: the prior of the user's own gives no `evidence_P`.
        """
        estimate = required(estimate, self.type)
        if estimate.evidence_P is None:
            raise StrategyError(
                "strategy.prior: gives no evidence_P, which fusion 'evidence' weighs by; set prior to kernel"
            )
        prior_N = estimate.for_rollouts(groups, leave_one_out=True)
        count_N, sum_N = groups.others()
        n_N = estimate.evidence_P[groups.prompt_N]
        w_N = np.divide(count_N, n_N + count_N, out=np.zeros(len(n_N)), where=n_N + count_N > 0)
        mean_N = sum_N / np.maximum(count_N, 1.0)
        w_P = groups.with_values(w_N).mean_P
        return masked(prior_N + w_N * (mean_N - prior_N), groups.mask_N, w_P)
