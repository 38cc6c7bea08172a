"""From baseline to advantage: Monte-Carlo, or GAE where the value estimate is per token. Discount 1."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from trainables.strategies.batch import FloatArray, IntArray


class Estimator(ABC):
    """Advantages and value targets per token, from the values of the states the tokens are drawn from."""

    @abstractmethod
    def tokens(
        self, reward_N: FloatArray, values: tuple[FloatArray, ...]
    ) -> tuple[tuple[FloatArray, ...], tuple[FloatArray, ...]]:
        """(advantages, value targets), each N arrays of shape (T_n,). The reward falls on the last token."""


@dataclass(frozen=True)
class MonteCarlo(Estimator):
    """A_t = r - V_t; the target of every value is the return r."""

    def tokens(
        self, reward_N: FloatArray, values: tuple[FloatArray, ...]
    ) -> tuple[tuple[FloatArray, ...], tuple[FloatArray, ...]]:
        advantages = tuple(r - v for r, v in zip(reward_N, values, strict=True))
        return advantages, tuple(np.full(len(v), r) for r, v in zip(reward_N, values, strict=True))


@dataclass(frozen=True)
class Gae(Estimator):
    """GAE(lambda) (arXiv 1506.02438, eq. 16), discount 1: A_t = sum_l lambda^l delta_{t+l}.

    The target of a value is A_t + V_t. `length_adaptive` = a > 0 sets lambda = 1 - 1 / (a T) per response
    (VAPO, arXiv 2504.05118, section 4.2.2), limited to [0, 1] because it is negative below 1 / a tokens.
    """

    lam: float = 1.0
    length_adaptive: float = 0.0

    def tokens(
        self, reward_N: FloatArray, values: tuple[FloatArray, ...]
    ) -> tuple[tuple[FloatArray, ...], tuple[FloatArray, ...]]:
        length_N = np.array([len(v) for v in values], dtype=np.int64)
        steps = int(length_N.max(initial=0))
        value_NT = np.zeros((len(values), steps + 1))
        inside_NT = np.arange(steps + 1) < length_N[:, None]
        value_NT[inside_NT] = np.concatenate(values) if values else np.zeros(0)
        delta_NT = np.where(inside_NT[:, :-1], value_NT[:, 1:] - value_NT[:, :-1], 0.0)
        ends = np.flatnonzero(length_N)
        delta_NT[ends, length_N[ends] - 1] += reward_N[ends]
        lam_N = self._lam(length_N)
        advantage_NT = np.zeros_like(delta_NT)
        carry_N = np.zeros(len(values))
        for t in range(steps - 1, -1, -1):
            carry_N = delta_NT[:, t] + lam_N * carry_N
            advantage_NT[:, t] = carry_N
        advantages = tuple(advantage_NT[n, :length] for n, length in enumerate(length_N))
        return advantages, tuple(a + v for a, v in zip(advantages, values, strict=True))

    def _lam(self, length_N: IntArray) -> FloatArray:
        if self.length_adaptive == 0.0:
            return np.full(len(length_N), self.lam)
        return np.clip(1.0 - 1.0 / (self.length_adaptive * np.maximum(length_N, 1)), 0.0, 1.0)
