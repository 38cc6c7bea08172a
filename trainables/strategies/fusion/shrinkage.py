"""Untested mixes of prior and group mean: b = V + w (m - V), with w from counts or variances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainables.errors import StrategyError
from trainables.strategies.fusion.base import Baseline, Fusion, masked, required
from trainables.strategies.groups import Groups
from trainables.strategies.value_estimate import ValueEstimate


@dataclass(frozen=True)
class BetaCounts(Fusion):
    """b = (n0 V + k m) / (n0 + k): the prior is worth n0 rollouts (posterior mean of a Beta)."""

    n0: float = 4.0
    leave_one_out: bool = False

    @property
    def leaves_out(self) -> bool:  # type: ignore[override]
        return self.leave_one_out

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        estimate = required(estimate, "beta")
        w_P = groups.count_P / (groups.count_P + self.n0)
        if not self.leave_one_out:
            prior_P = estimate.for_prompts(groups)
            baseline_P = prior_P + w_P * (groups.mean_P - prior_P)
            return masked(baseline_P[groups.prompt_N], groups.mask_N, w_P)
        prior_N = estimate.for_rollouts(groups, leave_one_out=True)
        count_N, sum_N = groups.others()
        return masked((self.n0 * prior_N + sum_N) / (self.n0 + count_N), groups.mask_N, w_P)


@dataclass(frozen=True)
class Ebpo(Fusion):
    """Empirical Bayes (EBPO, arXiv 2602.05165): the group mean leans on the running global mean by
    (sigma2 / k) / (sigma2 / k + tau2), sigma2 within and tau2 between prompts, both from past steps.
    """

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        estimate = required(estimate, "ebpo")
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


@dataclass(frozen=True)
class JamesStein(Fusion):
    """James-Stein leave-one-out across prompts (arXiv 2511.03710).

    b_ij = (1 - l_i) mean_{i,-j} + l_i mean_{-i},  l_i = (n - 1) / n  v / (v + s)
    over n prompts; v is the mean of the other prompts' within-prompt variance over their group size, s the
    sample variance of their means. Nothing in l_i or mean_{-i} contains prompt i, and mean_{i,-j} leaves the
    scored rollout out, so the baseline is unbiased. With fewer than three prompts it is plain leave-one-out.
    """

    leaves_out = True

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        pool_P = required(estimate, "james_stein").for_prompts(groups)
        lam_P = self.weights(groups)
        count_N, sum_N = groups.others()
        own_N = sum_N / np.maximum(count_N, 1.0)
        lam_N, pool_N = lam_P[groups.prompt_N], pool_P[groups.prompt_N]
        baseline_N = own_N + np.where(lam_N > 0, lam_N * (pool_N - own_N), 0.0)
        return masked(baseline_N, count_N >= 1, 1.0 - lam_P)

    def weights(self, groups: Groups) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """l_i of every prompt, (P,), from the other prompts only."""
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
        s_P = np.maximum(square_P - others_P * first_P**2, 0.0) / (others_P - 1)
        v_P = (noise_P.sum() - noise_P) / others_P
        ratio_P = np.divide(v_P, v_P + s_P, out=np.zeros(groups.prompts), where=v_P > 0)
        return np.asarray((prompts - 1) / prompts * ratio_P)
