"""Hit utility (HORA, arXiv 2605.07114): the chance that one of m further rollouts at least is right.

After s right of n a prompt's pass rate is Beta(a, b), a = 1 + s, b = 1 + n - s (uniform prior), and then

    U(m) = 1 - prod_{j < m} (b + j) / (a + b + j),   U(m + 1) - U(m) = (1 - U(m)) a / (a + b + m)

(beta-binomial). Each gain is smaller than the one before, so the largest gains of all prompts together make
the allocation that maximises sum_i U_i(m_i). Read: the abstract, which says U in words; the equations follow.
"""

from __future__ import annotations

import numpy as np

from trainables.errors import StrategyError
from trainables.strategies.batch import FloatArray, IntArray


def hit_gains(right_P: FloatArray, wrong_P: FloatArray, most: int) -> FloatArray:
    """Return U(m) - U(m - 1) for m = 1..`most`, (P, `most`): falling along each row.

    `right_P` and `wrong_P` are the outcomes seen; the prior of the pass rate is uniform.
    """
    a_P1, both_P1 = 1.0 + right_P[:, None], 2.0 + (right_P + wrong_P)[:, None]
    drawn_M = np.arange(most)
    miss_PM = 1.0 - a_P1 / (both_P1 + drawn_M)
    missed_PM = np.cumprod(np.hstack([np.ones_like(a_P1), miss_PM[:, :-1]]), axis=1)[:, :most]
    return np.asarray(missed_PM * a_P1 / (both_P1 + drawn_M))


def hit_utility(right_P: FloatArray, wrong_P: FloatArray, count_P: IntArray) -> FloatArray:
    """Return U(m) of `count_P` more rollouts, (P,): a probability."""
    most = int(count_P.max(initial=0))
    gain_PM = hit_gains(right_P, wrong_P, most)
    return np.asarray(np.where(np.arange(most) < count_P[:, None], gain_PM, 0.0).sum(axis=1))


def allocate_hits(right_P: FloatArray, wrong_P: FloatArray, room_P: IntArray, cap: int) -> IntArray:
    """Return the further rollouts, (P,), that maximise the sum of hit utilities: largest gains first.

    At most `room_P` of each prompt and `cap` in all. Ties go to the prompt with fewer of them, then to the
    earlier one.

    Raises:
        StrategyError: `cap` is negative.
    """
    if cap < 0:
        raise StrategyError(f"cap: {cap} rollouts is negative; a step's rollout budget ends at 0")
    most = min(int(room_P.max(initial=0)), cap)
    if most <= 0:
        return np.zeros(len(right_P), np.int64)
    gain_PM = np.where(np.arange(most) < room_P[:, None], hit_gains(right_P, wrong_P, most), -1.0)
    order = np.argsort(-gain_PM.T.ravel(), kind="stable")[: min(cap, int(np.minimum(room_P, most).sum()))]
    return np.bincount(order % len(right_P), minlength=len(right_P))
