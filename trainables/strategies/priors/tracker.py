"""Prior `tracker`: per-prompt Beta counts with forgetting (SPO, arXiv 2509.13232, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from trainables.errors import StrategyError
from trainables.strategies.batch import Batch, FloatArray, IntArray, Needs, Stats
from trainables.strategies.groups import Groups, first_round_N
from trainables.strategies.members.base import Keep, Positive
from trainables.strategies.priors.base import Prior, PriorMember
from trainables.strategies.priors.running import MASS
from trainables.strategies.scale import UNIT, Scale, verified_N
from trainables.strategies.value_estimate import ValueEstimate


class TrackerPrior(PriorMember):
    """Per-prompt Beta counts with forgetting (SPO, arXiv 2509.13232)."""

    type: Literal["tracker"] = "tracker"
    mass: Positive = 8.0
    """Pseudo-counts of the first estimate of a prompt."""
    half_change: Positive = 0.06
    """Mean absolute log-prob change (nats) after which half of the old evidence is forgotten; nothing is
    measured where `keep_min` equals `keep_max`."""
    keep_min: Keep = 0.875
    keep_max: Keep = 0.96
    start: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Value estimate before any evidence, as a share of the reward range."""

    foresight: ClassVar[bool] = True

    @model_validator(mode="after")
    def _ordered(self) -> TrackerPrior:
        if self.keep_min > self.keep_max:
            raise ValueError(f"keep_min: {self.keep_min} exceeds keep_max={self.keep_max}; lower keep_min")
        return self

    def begin(self, scale: Scale) -> Tracker:
        return Tracker(self, scale)


@dataclass
class Tracker(Prior):
    """v = a / (a + b), read before the update. At a visit with s successes in k rollouts:

        a <- rho a + s;  b <- rho b + k - s;  rho = 2^(-D / half_change), kept within [keep_min, keep_max]

    D is the policy's change since the prompt's last visit, on the prompt's own last response, as the authors
    measure it (`Stats.logprob_change_P`). A first visit sets `mass` pseudo-counts at the Jeffreys mean
    (s + 1/2) / (k + 1). A prompt never met is estimated at the mean of those that were.
    State is in [0, 1] units, one column per prompt met.
    """

    config: TrackerPrior
    scale: Scale = UNIT
    prompt_M: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Prompts met, ascending."""
    counts_2M: FloatArray = field(default_factory=lambda: np.zeros((2, 0)))
    """a and b."""

    def needs(self) -> Needs:
        return Needs(logprob_change=self.config.keep_min < self.config.keep_max)

    def predict(self, batch: Batch) -> ValueEstimate:
        return self.predict_prompts(batch.prompt_id_P, batch.stratum_P)

    def predict_prompts(self, prompt_C: IntArray, stratum_C: IntArray) -> ValueEstimate:
        a_M, b_M = self.counts_2M
        pool = (a_M.sum() + MASS * self.config.start) / (a_M.sum() + b_M.sum() + MASS)
        row_C, known_C = self._find(prompt_C)
        a_C, b_C = np.full(len(prompt_C), pool), np.full(len(prompt_C), 1.0 - pool)
        a_C[known_C], b_C[known_C] = a_M[row_C[known_C]], b_M[row_C[known_C]]
        mean_C = a_C / (a_C + b_C)
        sd_C = np.sqrt(mean_C * (1.0 - mean_C) / (a_C + b_C + 1.0))
        return ValueEstimate(
            mean_P=self.scale.reward(mean_C), sd_P=self.scale.width * sd_C, fresh_P=np.asarray(~known_C)
        )

    def observe(self, batch: Batch, stats: Stats) -> None:
        used_N = first_round_N(batch, verified_N(batch))
        unit_N = np.where(used_N, self.scale.unit(batch.correct_N), 0.0)
        groups = Groups(batch.prompt_N, unit_N, batch.prompts, used_N)
        visited = np.flatnonzero(groups.count_P > 0)
        prompt_V, count_V, sum_V = batch.prompt_id_P[visited], groups.count_P[visited], groups.sum_P[visited]
        known_V = self._find(prompt_V)[1]
        self._insert(prompt_V[~known_V])
        row_V = np.searchsorted(self.prompt_M, prompt_V)
        a_V, b_V = self.counts_2M[:, row_V]
        rho_V = self._keep_P(batch, stats)[visited]
        mass = self.config.mass
        first_V = mass * (sum_V + 0.5) / (count_V + 1.0)
        self.counts_2M[0, row_V] = np.where(known_V, rho_V * a_V + sum_V, first_V)
        self.counts_2M[1, row_V] = np.where(known_V, rho_V * b_V + count_V - sum_V, mass - first_V)

    def state_dict(self) -> dict[str, Any]:
        return {"prompt_M": self.prompt_M.copy(), "counts_2M": self.counts_2M.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.prompt_M = np.asarray(state["prompt_M"], np.int64).copy()
        self.counts_2M = np.asarray(state["counts_2M"], np.float64).reshape(2, -1).copy()

    def _keep_P(self, batch: Batch, stats: Stats) -> FloatArray:
        """Return the share rho of each prompt's old counts that survives this visit."""
        config = self.config
        if not self.needs().logprob_change:
            return np.full(batch.prompts, config.keep_min)
        if stats.logprob_change_P is None:
            raise StrategyError(
                "strategy.prior: 'tracker' forgets by logprob_change_P, and these stats have none; measure "
                "it, or set keep_min equal to keep_max"
            )
        rho_P = 2.0 ** (-stats.logprob_change_P / config.half_change)
        return np.asarray(np.clip(rho_P, config.keep_min, config.keep_max))

    def _find(self, prompt_C: IntArray) -> tuple[IntArray, Any]:
        """Return the column of each prompt, and whether it was met."""
        row_C = np.searchsorted(self.prompt_M, prompt_C)
        known_C = np.zeros(len(prompt_C), np.bool_)
        inside = row_C < len(self.prompt_M)
        known_C[inside] = self.prompt_M[row_C[inside]] == prompt_C[inside]
        return row_C, known_C

    def _insert(self, prompt_V: IntArray) -> None:
        if not len(prompt_V):
            return
        merged = np.union1d(self.prompt_M, prompt_V)
        counts = np.zeros((2, len(merged)))
        counts[:, np.searchsorted(merged, self.prompt_M)] = self.counts_2M
        self.prompt_M, self.counts_2M = merged, counts
