"""Rollouts handed out by predicted gain: what the budgets that draw in rounds share."""

from __future__ import annotations

import numpy as np

from trainables.errors import StrategyError
from trainables.strategies.batch import FloatArray, IntArray


def spend(gain_P: FloatArray, wish_P: IntArray, cap: int) -> IntArray:
    """Split `cap` rollouts over wishes, largest gain first (ties: earlier prompt first); (P,) counts.

    Raises:
        StrategyError: `cap` is negative.
    """
    if cap < 0:
        raise StrategyError(f"cap: {cap} rollouts is negative; a step's rollout budget ends at 0")
    order = np.argsort(-gain_P, kind="stable")
    before = np.cumsum(wish_P[order]) - wish_P[order]
    count_P = np.zeros_like(wish_P)
    count_P[order] = np.minimum(np.maximum(cap - before, 0), wish_P[order])
    return count_P
