"""Fusion `james_stein`: James-Stein leave-one-out across prompts (arXiv 2511.03710).

    b_ij = (1 - l_i) mean_{i,-j} + l_i mean_{-i},  l_i = (n - 1) / n  v / (v + s)

over n prompts; v: the other prompts' mean variance over group size; s: their means' spread, over n - 1 (the
paper's text, second hand). Neither l_i nor mean_{-i} contains prompt i: unbiased. For n < 3, l_i = 0.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from trainables.strategies.batch import FloatArray
from trainables.strategies.fusion.base import Baseline, Fusion, masked, required
from trainables.strategies.groups import Groups
from trainables.strategies.members.base import Member, Point
from trainables.strategies.value_estimate import ValueEstimate


class JamesStein(Member, Fusion):
    """James-Stein leave-one-out across prompts (arXiv 2511.03710)."""

    type: Literal["james_stein"] = "james_stein"
    leaves_out: ClassVar[bool] = True
    mixes_prior: ClassVar[bool] = True
    needs_pair: ClassVar[bool] = True

    def check(self, beside: Point) -> None:
        if beside.prior.type not in ("pool", "custom"):
            raise ValueError(f"prior: {beside.prior.type!r} under fusion 'james_stein'; set prior to pool")

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        pool_P = required(estimate, self.type).for_prompts(groups)
        lam_P = weights(groups)
        count_N, sum_N = groups.others()
        own_N = sum_N / np.maximum(count_N, 1.0)
        lam_N, pool_N = lam_P[groups.prompt_N], pool_P[groups.prompt_N]
        baseline_N = own_N + np.where(lam_N > 0, lam_N * (pool_N - own_N), 0.0)
        return masked(baseline_N, count_N >= 1, 1.0 - lam_P)


def weights(groups: Groups) -> FloatArray:
    """Return l_i of every prompt, (P,), from the other prompts only."""
    pair_P = groups.count_P >= 2
    prompts = int(pair_P.sum())
    if prompts < 3:
        return np.zeros(groups.prompts)
    mean_P = np.where(pair_P, groups.mean_P, 0.0)
    noise_P = np.where(pair_P, groups.variance_P / np.maximum(groups.count_P, 1.0), 0.0)
    others_P = prompts - pair_P
    # Centred first: the difference of two large sums would lose the small spread.
    centred_P = np.where(pair_P, mean_P - mean_P.sum() / prompts, 0.0)
    first_P = (centred_P.sum() - centred_P) / others_P
    square_P = (centred_P**2).sum() - centred_P**2
    s_P = np.maximum(square_P - others_P * first_P**2, 0.0) / others_P
    v_P = (noise_P.sum() - noise_P) / others_P
    ratio_P = np.divide(v_P, v_P + s_P, out=np.zeros(groups.prompts), where=v_P > 0)
    return np.asarray((prompts - 1) / prompts * ratio_P)
