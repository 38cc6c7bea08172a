"""Running pass rates with forgetting: what the priors `strata` and `global` share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from trainables.strategies.batch import Batch, FloatArray, IntArray, Stats
from trainables.strategies.groups import Groups, first_round_N
from trainables.strategies.members.base import Keep
from trainables.strategies.priors.base import Prior, PriorMember
from trainables.strategies.scale import UNIT, Scale, verified_N
from trainables.strategies.value_estimate import ValueEstimate

MASS = 2.0
"""Pseudo-rollouts that tie a stratum to the mean of all, and the mean of all to the start value."""
START_SPREAD = 1.0 / 12.0
"""Variance of a pass rate before any evidence, uniform on [0, 1]."""


class RunningPrior(PriorMember):
    """Base of the priors that keep running means."""

    keep: Keep = 0.9
    """Share of the old evidence that survives a step: the policy changes, old pass rates go stale."""
    start: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Value estimate before any evidence, as a share of the reward range."""

    foresight: ClassVar[bool] = True
    gives_spread: ClassVar[bool] = True
    per_stratum: ClassVar[bool] = True
    """False: all prompts are in one stratum."""

    def begin(self, scale: Scale) -> RunningRates:
        return RunningRates(self, scale)


@dataclass
class RunningRates(Prior):
    """Mean of each stratum over past steps, forgetting by `keep` per step. State in [0, 1] units.

    An unseen stratum is estimated at the mean of all; before any evidence, `start`. Each stratum leans on
    that mean with the weight of two rollouts, so one lucky first group cannot pin it to 0 or 1.
    """

    config: RunningPrior
    scale: Scale = UNIT
    stratum_S: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Strata seen so far, ascending."""
    sums_5S: FloatArray = field(default_factory=lambda: np.zeros((5, 0)))
    """Per stratum: rollouts, their reward sum, prompts, sum of group means, sum of unbiased squared means
    (the last three over groups of two and more)."""

    def predict(self, batch: Batch) -> ValueEstimate:
        return self.predict_prompts(batch.prompt_id_P, self._strata(batch.stratum_P))

    def predict_prompts(self, prompt_C: IntArray, stratum_C: IntArray) -> ValueEstimate:
        rollouts_S, reward_S, groups_S, mean_S, square_S = self.sums_5S
        pool = (reward_S.sum() + MASS * self.config.start) / (rollouts_S.sum() + MASS)
        spread, within = self._variances(groups_S.sum(), mean_S.sum(), square_S.sum(), float(pool))
        row_C, known_C = self._rows(self._strata(stratum_C))
        rollouts_C = np.where(known_C, _take(rollouts_S, row_C), 0.0)
        reward_C = np.where(known_C, _take(reward_S, row_C), 0.0)
        mean_C = (reward_C + MASS * pool) / (rollouts_C + MASS)
        # Two doubts add: where the stratum's mean is, and how far a prompt lies from it.
        variance_C = spread + within / (rollouts_C + MASS)
        width = self.scale.width
        return ValueEstimate(
            mean_P=self.scale.reward(mean_C),
            sd_P=width * np.sqrt(variance_C),
            within_P=np.full(mean_C.shape, width**2 * within),
        )

    def observe(self, batch: Batch, stats: Stats) -> None:
        used_N = first_round_N(batch, verified_N(batch))
        unit_N = np.where(used_N, self.scale.unit(batch.correct_N), 0.0)
        groups = Groups(batch.prompt_N, unit_N, batch.prompts, used_N)
        count_P, pair_P = groups.count_P, groups.count_P >= 2
        # m^2 overestimates mu^2 by Var(m) = variance / k.
        square_P = groups.mean_P**2 - groups.variance_P / np.maximum(count_P, 1.0)
        rows_5P = np.stack([count_P, groups.sum_P, pair_P * 1.0, pair_P * groups.mean_P, pair_P * square_P])
        stratum_P = self._strata(batch.stratum_P)
        merged_S = np.union1d(self.stratum_S, stratum_P[count_P > 0])
        sums_5S = np.zeros((5, len(merged_S)))
        sums_5S[:, np.searchsorted(merged_S, self.stratum_S)] = self.config.keep * self.sums_5S
        row_P = np.searchsorted(merged_S, stratum_P[count_P > 0])
        for line, new_P in enumerate(rows_5P[:, count_P > 0]):
            sums_5S[line] += np.bincount(row_P, new_P, len(merged_S))
        self.stratum_S, self.sums_5S = merged_S, sums_5S

    def state_dict(self) -> dict[str, Any]:
        return {"stratum_S": self.stratum_S.copy(), "sums_5S": self.sums_5S.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stratum_S = np.asarray(state["stratum_S"], np.int64).copy()
        self.sums_5S = np.asarray(state["sums_5S"], np.float64).reshape(5, -1).copy()

    def _strata(self, stratum_P: IntArray) -> IntArray:
        return stratum_P if self.config.per_stratum else np.zeros_like(stratum_P)

    def _rows(self, stratum_C: IntArray) -> tuple[IntArray, FloatArray]:
        row_C = np.searchsorted(self.stratum_S, stratum_C)
        known_C = _take(self.stratum_S, row_C) == stratum_C if len(self.stratum_S) else np.zeros(len(row_C))
        return row_C, known_C

    def _variances(self, groups: float, mean: float, square: float, pool: float) -> tuple[float, float]:
        """Return the variance of pass rates between prompts, and of one reward within a prompt; [0, 1] units.

        Within a prompt it is p (1 - p) for 0/1 rewards, so its mean is pool - E[p^2] (an upper bound for
        other bounded rewards). The start values count as MASS prompts.
        """
        first = (mean + MASS * self.config.start) / (groups + MASS)
        second = (square + MASS * (START_SPREAD + self.config.start**2)) / (groups + MASS)
        spread = max(0.0, second - first**2)
        return spread, max(0.0, first - second)


def _take(values_S: Any, row_C: IntArray) -> Any:
    """Return values_S[row_C] where the row exists; the last one where `searchsorted` pointed past the end."""
    if len(values_S) == 0:
        return np.zeros(len(row_C))
    return values_S[np.minimum(row_C, len(values_S) - 1)]
