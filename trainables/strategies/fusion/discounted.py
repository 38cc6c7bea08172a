"""Fusion `discounted`: the prior's own evidence, discounted, counts as rollouts (DBB, arXiv 2603.18444)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from trainables.errors import StrategyError
from trainables.strategies.fusion.base import Baseline, Fusion, masked, required
from trainables.strategies.groups import Groups
from trainables.strategies.members.base import Keep, Member, Point
from trainables.strategies.value_estimate import ValueEstimate


class Discounted(Member, Fusion):
    """b = (keep n V + k m) / (keep n + k): mean of a Beta whose old counts are discounted, then updated.

    n = V (1 - V) / sd^2 - 1 is the evidence of a Beta with the prior's mean V and standard deviation sd (on
    [0, 1]). Under the prior `tracker` it is a + b exactly, so b is (keep a + s) / (keep (a + b) + k).
    Read of the paper: its abstract, which has no equation. This one is trimtab's reading of the name.
    """

    type: Literal["discounted"] = "discounted"
    keep: Keep = 0.9
    """Share of the prior's evidence that counts."""

    mixes_prior: ClassVar[bool] = True

    def check(self, beside: Point) -> None:
        if beside.prior.type in ("batchwise", "critic", "greedy", "kernel", "pool", "probe"):
            raise ValueError(
                f"prior: {beside.prior.type!r} under fusion 'discounted', which weighs the prior by its "
                f"standard deviation; set prior to tracker, global, strata or context"
            )

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        """Return baselines of (N,) rollouts.

        Raises:
            StrategyError: the prior of the user's own gives no `sd_P`.
        """
        estimate = required(estimate, self.type)
        if estimate.sd_P is None:
            raise StrategyError(
                "strategy.prior: gives no sd_P, which fusion 'discounted' weighs by; set prior to tracker"
            )
        prior_P = estimate.for_prompts(groups)
        unit_P, sd_P = groups.scale.unit(prior_P), estimate.sd_P / groups.scale.width
        # No Beta spreads wider than V (1 - V); one that does not spread at all is certain.
        ratio_P = unit_P * (1.0 - unit_P) / np.maximum(sd_P**2, 1e-12)
        n_P = self.keep * np.maximum(ratio_P - 1.0, 0.0)
        w_P = groups.count_P / np.maximum(groups.count_P + n_P, 1e-12)
        baseline_P = prior_P + w_P * (groups.mean_P - prior_P)
        return masked(baseline_P[groups.prompt_N], groups.mask_N, w_P)
