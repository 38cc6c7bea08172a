"""What advantages are divided by. Pure functions of advantages and rewards.

A degenerate scale never divides: dividing by a uniform group's std plus 1e-6 would multiply by a million.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from trainables.strategies.batch import BoolArray, FloatArray
from trainables.strategies.groups import Groups


class Normaliser(ABC):
    """Subclass this for a normaliser of your own."""

    @abstractmethod
    def rollouts(self, advantage_N: FloatArray, groups: Groups, scored_N: BoolArray) -> FloatArray:
        """Normalised advantages, (N,). `groups` holds the shaped rewards; unscored rows are 0 and stay 0."""

    def tokens(
        self, advantage: tuple[FloatArray, ...], groups: Groups, scored_N: BoolArray
    ) -> tuple[FloatArray, ...]:
        """The same per token: N arrays of shape (T_n,). The default applies `rollouts` to all tokens flat."""
        length_N = np.array([len(a) for a in advantage], dtype=np.int64)
        rollout_K = np.repeat(np.arange(len(advantage)), length_N)
        flat = Groups(
            groups.prompt_N[rollout_K], groups.value_N[rollout_K], groups.prompts, groups.mask_N[rollout_K]
        )
        values = np.concatenate(advantage) if advantage else np.zeros(0)
        done = self.rollouts(values, flat, scored_N[rollout_K])
        return tuple(np.split(done, np.cumsum(length_N)[:-1]))


@dataclass(frozen=True)
class NoNormaliser(Normaliser):
    def rollouts(self, advantage_N: FloatArray, groups: Groups, scored_N: BoolArray) -> FloatArray:
        return advantage_N

    def tokens(
        self, advantage: tuple[FloatArray, ...], groups: Groups, scored_N: BoolArray
    ) -> tuple[FloatArray, ...]:
        return advantage


@dataclass(frozen=True)
class GroupStd(Normaliser):
    """A / (std + epsilon), std of the group's shaped rewards, ddof 1 (GRPO, DAPO as in verl).

    A group without spread is divided by the worst-case std s instead (0.5 on [0, 1]): never inflated, and
    under a group mean its advantages are 0 anyway.
    """

    epsilon: float = 1e-6

    def rollouts(self, advantage_N: FloatArray, groups: Groups, scored_N: BoolArray) -> FloatArray:
        spread_P = np.sqrt(groups.variance_P)
        divisor_P = np.where(spread_P > 0, spread_P + self.epsilon, np.sqrt(groups.scale.s2))
        return np.asarray(advantage_N / divisor_P[groups.prompt_N])


@dataclass(frozen=True)
class BatchStd(Normaliser):
    """A / (std + epsilon), std of the batch's scored advantages, ddof 1; `center` subtracts their mean.

    A batch without spread (or of one) is not divided.
    """

    center: bool = False
    epsilon: float = 1e-6

    def rollouts(self, advantage_N: FloatArray, groups: Groups, scored_N: BoolArray) -> FloatArray:
        seen = advantage_N[scored_N]
        if len(seen) < 2:
            return advantage_N
        moved_N = np.where(scored_N, advantage_N - seen.mean(), 0.0) if self.center else advantage_N
        if bool((seen == seen[0]).all()):
            return moved_N
        return np.asarray(moved_N / (float(seen.std(ddof=1)) + self.epsilon))
