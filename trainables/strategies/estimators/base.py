"""Base of the estimators: from baseline to advantage."""

from __future__ import annotations

from abc import ABC, abstractmethod

from trainables.strategies.batch import FloatArray

PerToken = tuple[FloatArray, ...]
"""N arrays of shape (T_n,)."""


class Estimator(ABC):
    """Advantages and value targets per token, from the values of the states the tokens are drawn from."""

    @abstractmethod
    def tokens(self, reward_N: FloatArray, values: PerToken) -> tuple[PerToken, PerToken]:
        """Return (advantages, value targets). The reward falls on the last token."""
