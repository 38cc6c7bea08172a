"""Tested shrinkage (V0.5, arXiv 2603.10848, section 3): trust the prior unless the group refutes it.

    d = m - V,  v = s2 / k,  c = chi2.isf(alpha, 1)
    Delta2 = max(0, d^2 - c v);  w = Delta2 / (Delta2 + v);  b = V + w d

alpha = chi2.sf(1, 1) gives c = 1, the paper's rule w = max(0, 1 - v / d^2) exactly. The level is nominal: it
is exact for the worst-case variance s2 (pass rate 1/2); elsewhere the true rejection rate is lower.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from pydantic import model_validator

from trainables.strategies.batch import BoolArray, FloatArray
from trainables.strategies.fusion.base import Baseline, Fusion, masked, required
from trainables.strategies.fusion.exact import accepts, check_binary
from trainables.strategies.groups import Groups, Totals
from trainables.strategies.members.base import Alpha, Member
from trainables.strategies.value_estimate import ValueEstimate

PAPER_ALPHA = math.erfc(math.sqrt(0.5))
"""chi2.sf(1, 1) = 0.3173...: the level at which the tested fusion is V0.5's published rule exactly."""
SLICE = 1 << 15
"""Rollouts per pass of the leave-one-out kernel: its temporaries stay in the cache."""


@lru_cache(maxsize=256)
def threshold(alpha: float) -> float:
    """Return c of the test at nominal level `alpha`: chi2.isf(alpha, 1)."""
    from scipy.stats import chi2

    return float(chi2.isf(alpha, 1))


def excess(d: FloatArray, v: FloatArray, c: float) -> FloatArray:
    """Return Delta2 = max(0, d^2 - c v): the prior's squared error, as far as the test believes in it."""
    return np.maximum(d * d - c * v, 0.0)


def shrink_weight(d: FloatArray, v: FloatArray, c: float) -> FloatArray:
    """Return w of the group's mean, in [0, 1]. `d` = m - V and `v` = s2 / k > 0, any shape, reward units."""
    delta2 = excess(d, v, c)
    return delta2 / (delta2 + v)


class Tested(Member, Fusion):
    """Tested shrinkage (V0.5, arXiv 2603.10848): trust the prior unless the group refutes it."""

    type: Literal["tested"] = "tested"
    alpha: Alpha = PAPER_ALPHA
    """Nominal level of the test. Towards 0 the prior is always trusted."""
    leave_one_out: bool = False
    """Mean, count and prior without the scored rollout: no self-coupling."""
    per_round: bool = False
    """Earlier rounds and the other rollouts of the rollout's own round only: unbiased under sequential
    stopping. Needs `leave_one_out: true`."""
    test: Literal["chi2", "exact"] = "chi2"
    """`exact`: two-sided binomial test; binary rewards only."""

    mixes_prior: ClassVar[bool] = True

    @model_validator(mode="after")
    def _consistent(self) -> Tested:
        if self.per_round and not self.leave_one_out:
            raise ValueError("per_round: true needs leave_one_out: true; set both")
        return self

    @property
    def leaves_out(self) -> bool:  # type: ignore[override]  # by a parameter, not by class
        return self.leave_one_out

    @property
    def c(self) -> float:
        """Threshold of the test, in units of v."""
        return threshold(self.alpha)

    def others(self, groups: Groups) -> tuple[FloatArray, FloatArray]:
        return groups.others(self.per_round)

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        estimate = required(estimate, self.type)
        return self._left_out(groups, estimate) if self.leave_one_out else self._whole(groups, estimate)

    def delta2(self, groups: Groups, prior_P: FloatArray) -> FloatArray:
        """Return the prior's squared error by the whole group, (P,), reward units squared; 0 = accepted."""
        v_P = groups.scale.s2 / np.maximum(groups.count_P, 1.0)
        d_P = np.where(groups.count_P > 0, groups.mean_P - prior_P, 0.0)
        if self.test == "chi2":
            return excess(d_P, v_P, self.c)
        check_binary(groups)
        accepted_P = accepts(groups.count_P, groups.sum_P, prior_P, self.alpha, groups)
        return np.where(accepted_P, 0.0, excess(d_P, v_P, 1.0))

    def _whole(self, groups: Groups, estimate: ValueEstimate) -> Baseline:
        prior_P = estimate.for_prompts(groups)
        delta2_P = self.delta2(groups, prior_P)
        v_P = groups.scale.s2 / np.maximum(groups.count_P, 1.0)
        w_P = delta2_P / (delta2_P + v_P)
        baseline_P = prior_P + w_P * (groups.mean_P - prior_P)
        return masked(baseline_P[groups.prompt_N], groups.mask_N, w_P)

    def _left_out(self, groups: Groups, estimate: ValueEstimate) -> Baseline:
        totals = groups.totals(self.per_round)
        v_C = groups.scale.s2 / np.maximum(totals.count_C - 1.0, 1.0)
        w_N = np.empty(len(groups.prompt_N))
        baseline_N = np.empty_like(w_N)
        prior_P = estimate.mean_P
        # Only a prior read from trajectories is per rollout: per prompt, gathering slice by slice is faster.
        prior_N = np.zeros(0) if prior_P is not None else estimate.for_rollouts(groups, True, self.per_round)
        accepted_N = np.zeros(0, np.bool_)
        if self.test == "exact":
            accepted_N = self._accepted(groups, totals, prior_P, prior_N)
        for start in range(0, len(w_N), SLICE):
            part = slice(start, start + SLICE)
            cell = totals.cell_N[part]
            prior = prior_N[part] if prior_P is None else prior_P[groups.prompt_N[part]]
            others = totals.count_C[cell] - 1.0
            total = totals.sum_C[cell] - groups.value_N[part]
            d = np.where(others > 0, total / np.maximum(others, 1.0) - prior, 0.0)
            w = shrink_weight(d, v_C[cell], self.c if self.test == "chi2" else 1.0)
            if self.test == "exact":
                w = np.where(accepted_N[part], 0.0, w)
            w_N[part] = w
            baseline_N[part] = prior + w * d
        scored_N = groups.mask_N & np.isfinite(baseline_N)
        w_P = groups.with_values(np.where(scored_N, w_N, 0.0)).mean_P
        return masked(baseline_N, scored_N, w_P)

    def _accepted(
        self, groups: Groups, totals: Totals, prior_P: FloatArray | None, prior_N: FloatArray
    ) -> BoolArray:
        """Return where the prior survives the exact test without the scored rollout, (N,)."""
        check_binary(groups)
        low, high = groups.scale.low, groups.scale.high
        if prior_P is None:
            count_N, sum_N = groups.others(self.per_round)
            prior_N = np.where(np.isfinite(prior_N), prior_N, low)
            return accepts(count_N, sum_N, prior_N, self.alpha, groups)
        # A cell's rollouts are two cases: the scored one was right, or it was wrong.
        others_C = np.maximum(totals.count_C - 1.0, 0.0)
        cells = len(others_C) // max(1, groups.prompts)
        prior_C = np.repeat(prior_P, cells)
        right_N = groups.value_N == high
        accepted_N = np.empty(len(right_N), np.bool_)
        for value, rows in ((low, np.flatnonzero(~right_N)), (high, np.flatnonzero(right_N))):
            # A cell without such a rollout has no such case: limited to a possible sum, never asked for.
            sum_C = np.clip(totals.sum_C - value, others_C * low, others_C * high)
            accepted_C = accepts(others_C, sum_C, prior_C, self.alpha, groups)
            accepted_N[rows] = accepted_C[totals.cell_N[rows]]
        return accepted_N
