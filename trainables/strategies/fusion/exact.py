"""The exact two-sided binomial test of H0: p = V, for many groups at once.

Same p-value as `scipy.stats.binomtest(successes, k, V).pvalue`: the mass of all outcomes that are no more
likely than the observed one. Evaluated once per distinct (k, successes, V), so a prior of few values costs a
table look-up.
"""

from __future__ import annotations

import numpy as np

from trainables.errors import StrategyError
from trainables.strategies.batch import BoolArray, FloatArray, IntArray
from trainables.strategies.groups import Groups

TIE = 1.0 + 1e-7
"""Outcomes this close to the observed one's mass count as equally likely, as in SciPy."""
CELLS = 1 << 18
"""Entries of one pass over (test, outcome)."""


def pvalues(count_Q: IntArray, successes_Q: IntArray, prior_Q: FloatArray) -> FloatArray:
    """Return Q two-sided p-values: `successes_Q` of `count_Q` draws under pass rate `prior_Q` in [0, 1]."""
    from scipy.special import gammaln, xlog1py, xlogy

    pvalue_Q = np.ones(len(count_Q))
    for count in np.unique(count_Q):
        rows = np.flatnonzero(count_Q == count)
        outcome_J = np.arange(count + 1)
        log_ways_J = gammaln(count + 1.0) - gammaln(outcome_J + 1.0) - gammaln(count - outcome_J + 1.0)
        for start in range(0, len(rows), max(1, CELLS // len(outcome_J))):
            some = rows[start : start + max(1, CELLS // len(outcome_J))]
            prior_R1 = prior_Q[some][:, None]
            mass_RJ = np.exp(log_ways_J + xlogy(outcome_J, prior_R1) + xlog1py(count - outcome_J, -prior_R1))
            seen_R1 = np.take_along_axis(mass_RJ, successes_Q[some][:, None], axis=1)
            pvalue_Q[some] = np.minimum((mass_RJ * (mass_RJ <= seen_R1 * TIE)).sum(axis=1), 1.0)
    return pvalue_Q


def check_binary(groups: Groups) -> None:
    """Refuse rewards that are neither the lowest nor the highest of the range.

    Raises:
        StrategyError: there is one; it names the prompt.
    """
    scale = groups.scale
    between_N = groups.mask_N & (groups.value_N != scale.low) & (groups.value_N != scale.high)
    if between_N.any():
        row = int(between_N.argmax())
        raise StrategyError(
            f"prompt {groups.name(int(groups.prompt_N[row]))}: correct {float(groups.value_N[row])} is "
            f"neither {scale.low} nor {scale.high}, but fusion.test: exact is for binary rewards only; set "
            f"fusion.test to chi2"
        )


def accepts(
    count_Q: FloatArray, sum_Q: FloatArray, prior_Q: FloatArray, alpha: float, groups: Groups
) -> BoolArray:
    """Return where the prior survives the test at level `alpha` (p-value >= alpha); without data it does.

    Q tests; reward sums and priors in the reward units of `groups`. Call `check_binary` first.
    """
    scale = groups.scale
    successes_Q = np.rint((sum_Q - count_Q * scale.low) / scale.width)
    case_3Q = np.stack([count_Q, successes_Q, (prior_Q - scale.low) / scale.width])
    order = np.lexsort(case_3Q)
    new_Q = np.ones(len(order), np.bool_)
    new_Q[1:] = (np.diff(case_3Q[:, order], axis=1) != 0).any(axis=0)
    count_U, successes_U, prior_U = case_3Q[:, order[new_Q]]
    accepted_U = pvalues(count_U.astype(np.int64), successes_U.astype(np.int64), prior_U) >= alpha
    accepted_Q = np.empty(len(order), np.bool_)
    accepted_Q[order] = accepted_U[np.cumsum(new_Q) - 1]
    return accepted_Q
