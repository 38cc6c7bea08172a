"""The values of all states of a step, flat: one state per token, or one per rollout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainables.strategies.batch import BoolArray, FloatArray, IntArray
from trainables.strategies.groups import Groups
from trainables.strategies.value_estimate import ValueEstimate


@dataclass(frozen=True)
class States:
    """Values of S states of N rollouts, rollout by rollout."""

    value_S: FloatArray
    """Value estimates, reward units; NaN = none."""
    rollout_S: IntArray
    """Rollout of each state, ascending."""
    length_N: IntArray
    """States of each rollout."""
    used_S: BoolArray
    """States with a value, of rollouts with a reward that the prior does not keep silent about."""
    per_token: bool

    @staticmethod
    def of(groups: Groups, estimate: ValueEstimate) -> States:
        """Return the states. Values read from trajectories come from the group's other rollouts."""
        used_N = groups.mask_N if estimate.silent_N is None else groups.mask_N & ~estimate.silent_N
        tokens, rollouts = estimate.tokens, len(groups.prompt_N)
        if tokens is None:
            value_S, length_N = estimate.for_rollouts(groups, leave_one_out=True), np.ones(rollouts, np.int64)
        else:
            value_S = np.concatenate(tokens) if tokens else np.zeros(0)
            length_N = np.array([len(value_T) for value_T in tokens], dtype=np.int64)
        rollout_S = np.repeat(np.arange(rollouts), length_N)
        used_S = np.asarray(used_N[rollout_S] & np.isfinite(value_S))
        return States(value_S, rollout_S, length_N, used_S, tokens is not None)

    def first_N(self, value_S: FloatArray) -> FloatArray:
        """Return the number at each rollout's first state, (N,); NaN where it has none."""
        first_N = np.full(len(self.length_N), np.nan)
        start_N = np.cumsum(self.length_N) - self.length_N
        some_N = self.length_N > 0
        first_N[some_N] = value_S[start_N[some_N]]
        return first_N

    def split(self, value_S: FloatArray) -> tuple[FloatArray, ...] | None:
        """Return numbers per state as N arrays of shape (T_n,); None where states are rollouts."""
        return tuple(np.split(value_S, np.cumsum(self.length_N)[:-1])) if self.per_token else None

    def total_N(self, weight_S: FloatArray) -> FloatArray:
        """Return the sum over the used states of each rollout, (N,)."""
        kept_S = np.where(self.used_S, weight_S, 0.0)
        return np.asarray(np.bincount(self.rollout_S, kept_S, len(self.length_N)), dtype=np.float64)
