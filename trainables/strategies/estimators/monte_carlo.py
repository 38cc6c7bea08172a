"""Estimator `monte_carlo`: return minus baseline."""

from __future__ import annotations

from typing import Literal

import numpy as np

from trainables.strategies.batch import FloatArray
from trainables.strategies.estimators.base import Estimator, PerToken
from trainables.strategies.members.base import Member


class MonteCarlo(Member, Estimator):
    """Return minus baseline; no bootstrapping. A_t = r - V_t; the target of every value is the return r."""

    type: Literal["monte_carlo"] = "monte_carlo"

    def tokens(self, reward_N: FloatArray, values: PerToken) -> tuple[PerToken, PerToken]:
        advantages = tuple(r - v for r, v in zip(reward_N, values, strict=True))
        return advantages, tuple(np.full(len(v), r) for r, v in zip(reward_N, values, strict=True))
