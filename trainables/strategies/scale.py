"""The declared reward range, and the checks that refuse what lies outside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainables.errors import StrategyError
from trainables.strategies.batch import Batch, BoolArray, FloatArray, IntArray, Kind, Verdict


@dataclass(frozen=True)
class Scale:
    """Range of `correct`. Everything quadratic is in its square."""

    low: float = 0.0
    high: float = 1.0
    penalty: float = 0.0
    """The most that shaping takes off a reward."""

    @property
    def shaped_low(self) -> float:
        """Smallest `reward`: what shaping leaves of a wrong answer. The largest is `high`."""
        return self.low - self.penalty

    @property
    def width(self) -> float:
        return self.high - self.low

    @property
    def s2(self) -> float:
        """Worst-case variance of one reward: width^2 / 4 (Popoviciu), 1/4 on [0, 1]."""
        return self.width**2 / 4.0

    def unit(self, value: FloatArray) -> FloatArray:
        """Return reward units as numbers in [0, 1]."""
        return (value - self.low) / self.width

    def reward(self, unit: FloatArray) -> FloatArray:
        """Return numbers in [0, 1] as reward units."""
        return self.low + self.width * unit


UNIT = Scale()


def verified_N(batch: Batch) -> BoolArray:
    """Return the sampled rollouts that have a verdict, those of dropped prompts and untrained ones included.

    What a prior learns from: leaving dropped (uniform) groups out would bias it to the middle.
    """
    return np.asarray((batch.verdict_N == Verdict.OK) & (batch.kind_N == Kind.SAMPLE), dtype=np.bool_)


def check_batch(batch: Batch, scale: Scale) -> None:
    """Refuse NaN, infinite or out-of-range rewards, and empty groups.

    Raises:
        StrategyError: there is one; it names the prompt.
    """
    judged_N = batch.verdict_N == Verdict.OK
    _check("correct", batch.correct_N, judged_N, batch.prompt_id_P[batch.prompt_N], scale.low, scale.high)
    _check("reward", batch.reward_N, judged_N, batch.prompt_id_P[batch.prompt_N], -np.inf, np.inf)
    count_P = np.bincount(batch.prompt_N, minlength=batch.prompts)
    if batch.prompts and count_P.min() == 0:
        empty = int(batch.prompt_id_P[int(count_P.argmin())])
        raise StrategyError(
            f"prompt {empty}: its group is empty; a prompt enters the batch with its first rollout"
        )


def check_estimate(mean_P: FloatArray, prompt_id_P: IntArray, scale: Scale) -> None:
    """Refuse a prior outside the declared range.

    Raises:
        StrategyError: there is one; it names the prompt.
    """
    _check("prior", mean_P, np.ones(mean_P.shape, np.bool_), prompt_id_P, scale.low, scale.high)


def _check(
    name: str, value_N: FloatArray, used_N: BoolArray, id_N: IntArray, low: float, high: float
) -> None:
    good_N = np.isfinite(value_N) & (value_N >= low) & (value_N <= high)
    bad_N = used_N & ~good_N
    if bad_N.any():
        row = int(bad_N.argmax())
        reach = f"[{low}, {high}]" if np.isfinite(low) else "the finite numbers"
        raise StrategyError(
            f"prompt {int(id_N[row])}: {name} {float(value_N[row])} is outside {reach}; fix the verifier (or "
            f"the prior), or declare the range with strategy.reward_range"
        )
