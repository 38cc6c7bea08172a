"""What advantages are divided by. Pure functions of advantages and rewards.

A degenerate scale never divides: dividing by a uniform group's std plus 1e-6 would multiply by a million.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np

from trainables.errors import StrategyError
from trainables.strategies.batch import BoolArray, FloatArray
from trainables.strategies.groups import Groups
from trainables.strategies.members.base import Member, Point, Positive


class Normaliser(ABC):
    """Subclass this for a normaliser of your own."""

    needs_pair: ClassVar[bool] = False
    """True: the advantage of a group of one rollout is always 0 (or undefined)."""

    @abstractmethod
    def rollouts(self, advantage_N: FloatArray, groups: Groups, scored_N: BoolArray) -> FloatArray:
        """Return normalised advantages, (N,). `groups` holds the shaped rewards; unscored rows stay 0."""

    def tokens(
        self, advantage: tuple[FloatArray, ...], groups: Groups, scored_N: BoolArray
    ) -> tuple[FloatArray, ...]:
        """Return the same per token: N arrays of shape (T_n,). The default treats all tokens as rollouts."""
        length_N = np.array([len(a) for a in advantage], dtype=np.int64)
        rollout_K = np.repeat(np.arange(len(advantage)), length_N)
        flat = Groups(
            prompt_N=groups.prompt_N[rollout_K],
            value_N=groups.value_N[rollout_K],
            prompts=groups.prompts,
            used_N=groups.mask_N[rollout_K],
            length_N=np.ones_like(rollout_K),
            scale=groups.scale,
        )
        values = np.concatenate(advantage) if advantage else np.zeros(0)
        done = self.rollouts(values, flat, scored_N[rollout_K])
        return tuple(np.split(done, np.cumsum(length_N)[:-1]))


class NoNormaliser(Member, Normaliser):
    """Leave advantages as they are."""

    type: Literal["none"] = "none"

    def rollouts(self, advantage_N: FloatArray, groups: Groups, scored_N: BoolArray) -> FloatArray:
        return advantage_N

    def tokens(
        self, advantage: tuple[FloatArray, ...], groups: Groups, scored_N: BoolArray
    ) -> tuple[FloatArray, ...]:
        return advantage


class GroupStd(Member, Normaliser):
    """Divide by the group's sample standard deviation (ddof 1) of the rewards plus epsilon (GRPO, DAPO).

    A group without spread is divided by the worst-case std s instead (0.5 on [0, 1]): never inflated, and
    under a group mean its advantages are 0 anyway.
    """

    type: Literal["group_std"] = "group_std"
    epsilon: Positive = 1e-6

    needs_pair: ClassVar[bool] = True

    def rollouts(self, advantage_N: FloatArray, groups: Groups, scored_N: BoolArray) -> FloatArray:
        spread_P = np.sqrt(groups.variance_P)
        divisor_P = np.where(spread_P > 0, spread_P + self.epsilon, np.sqrt(groups.scale.s2))
        return np.asarray(advantage_N / divisor_P[groups.prompt_N])


class BatchStd(Member, Normaliser):
    """Divide by the batch's sample standard deviation (ddof 1) of the advantages plus epsilon.

    Every rollout counts once. A batch without spread (or of one) is not divided.
    """

    type: Literal["batch_std"] = "batch_std"
    center: bool = False
    """Also subtract the batch mean (whitening)."""
    epsilon: Positive = 1e-6

    def rollouts(self, advantage_N: FloatArray, groups: Groups, scored_N: BoolArray) -> FloatArray:
        seen = advantage_N[scored_N]
        if len(seen) < 2:
            return advantage_N
        moved_N = np.where(scored_N, advantage_N - seen.mean(), 0.0) if self.center else advantage_N
        if bool((seen == seen[0]).all()):
            return moved_N
        return np.asarray(moved_N / (float(seen.std(ddof=1)) + self.epsilon))


class TokenStd(Member, Normaliser):
    """Whiten over the batch's response tokens: subtract the mean, divide by the std (ddof 1) plus epsilon.

    Every token carries its rollout's advantage, so a long response counts more. A batch without spread (or
    of one token) is not divided. Source: verl's `compute_reinforce_plus_plus_baseline_outcome_advantage`.
    """

    type: Literal["token_std"] = "token_std"
    epsilon: Positive = 1e-6

    def rollouts(self, advantage_N: FloatArray, groups: Groups, scored_N: BoolArray) -> FloatArray:
        """Return whitened advantages, (N,).

        Raises:
            StrategyError: the groups have no response lengths.
        """
        if groups.length_N is None:
            raise StrategyError("normaliser: 'token_std' needs response lengths; give Groups a length_N")
        length_N = np.where(scored_N, groups.length_N, 0).astype(np.float64)
        tokens = float(length_N.sum())
        if tokens < 2:
            return advantage_N
        mean = float((length_N * advantage_N).sum()) / tokens
        moved_N = np.where(scored_N, advantage_N - mean, 0.0)
        seen = advantage_N[length_N > 0]
        if bool((seen == seen[0]).all()):
            return moved_N
        spread = np.sqrt(float((length_N * moved_N**2).sum()) / (tokens - 1.0))
        return np.asarray(moved_N / (spread + self.epsilon))


class BernoulliStd(Member, Normaliser):
    """Divide by sqrt(b (1 - b)) plus epsilon, the std of a 0/1 reward whose mean is the rollout's baseline b.

    b is read back as reward minus advantage, so shaping counts with the mean that is subtracted from it, and
    is kept within the reward range. At its ends the worst-case std s divides, as under `group_std`.
    Made for DBB (arXiv 2603.18444), of which only the abstract was read; the form is trimtab's.
    """

    type: Literal["bernoulli_std"] = "bernoulli_std"
    epsilon: Positive = 1e-6

    def check(self, beside: Point) -> None:
        if beside.estimator.type != "monte_carlo":
            raise ValueError(
                f"estimator: {beside.estimator.type!r} beside normaliser 'bernoulli_std', which reads the "
                f"baseline of a whole rollout; set estimator to monte_carlo, or normaliser to batch_std"
            )

    def rollouts(self, advantage_N: FloatArray, groups: Groups, scored_N: BoolArray) -> FloatArray:
        baseline_N = np.clip(groups.scale.unit(groups.value_N - advantage_N), 0.0, 1.0)
        spread_N = groups.scale.width * np.sqrt(baseline_N * (1.0 - baseline_N))
        divisor_N = np.where(spread_N > 0, spread_N + self.epsilon, np.sqrt(groups.scale.s2))
        return np.where(scored_N, advantage_N / divisor_N, 0.0)
