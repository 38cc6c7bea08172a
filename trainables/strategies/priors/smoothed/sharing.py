"""What runs as prior `batchwise`: each prompt's record, and the beta that fitted the last step best."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from trainables.strategies.batch import Batch, FloatArray, IntArray, Stats
from trainables.strategies.groups import Groups
from trainables.strategies.priors.base import Prior
from trainables.strategies.priors.running import MASS
from trainables.strategies.priors.smoothed.visits import Visits
from trainables.strategies.scale import UNIT, Scale
from trainables.strategies.value_estimate import ValueEstimate

if TYPE_CHECKING:
    from trainables.strategies.priors.smoothed.batchwise import BatchwisePrior

BETAS = (np.inf, 4.0, 2.0, 1.0, 0.5, 0.25)
"""The grid that beta is chosen from (trimtab's; the paper has one too)."""
MARGIN = 0.01
"""Prompts whose value is nearer to 0 or 1 share nothing: their weight would have no limit."""
FORGOTTEN = 1e-3
"""Weight below which a visit is dropped."""


@dataclass
class Sharing(Prior):
    """Other prompts' rewards as a baseline. beta changes in `observe` only, so no reward chooses its own."""

    config: BatchwisePrior
    scale: Scale = UNIT
    visits: Visits = field(default_factory=Visits)
    choice: int = 0
    """Place of beta in `BETAS`."""

    def rates(self, prompt_C: IntArray) -> FloatArray:
        """Return pass rates by the record, (C,), in [0, 1]."""
        weight_V = self._weight_V()
        _, _, count_V, sum_V = self.visits.row_4V
        pool = ((weight_V * sum_V).sum() + MASS / 2.0) / ((weight_V * count_V).sum() + MASS)
        count_C, sum_C = self.visits.sums(weight_V, prompt_C)
        return np.asarray((sum_C + pool) / (count_C + 1.0))

    def predict(self, batch: Batch) -> ValueEstimate:
        value_P = improved(self.rates(batch.prompt_id_P), BETAS[self.choice])
        return ValueEstimate(mean_P=self.scale.reward(shared(self._groups(batch), value_P)))

    def observe(self, batch: Batch, stats: Stats) -> None:
        groups, rate_P = self._groups(batch), self.rates(batch.prompt_id_P)
        errors = [
            float((groups.count_P * (groups.mean_P - shared(groups, improved(rate_P, beta))) ** 2).sum())
            for beta in BETAS
        ]
        self.choice = int(np.argmin(errors))
        self.visits.add(batch, self.scale)
        self.visits.keep(self._weight_V() >= FORGOTTEN)

    def metrics(self, batch: Batch) -> dict[str, float]:
        return {"basis_inverse_beta": 1.0 / BETAS[self.choice]}

    def state_dict(self) -> dict[str, Any]:
        return {**self.visits.state_dict(), "choice": self.choice}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.visits.load_state_dict(state)
        self.choice = int(state["choice"])

    def _weight_V(self) -> FloatArray:
        return np.asarray(self.config.keep ** (self.visits.age_V - 1.0))

    def _groups(self, batch: Batch) -> Groups:
        groups = Groups.of(batch, self.scale)
        return groups.with_values(self.scale.unit(groups.value_N))


def improved(rate_P: FloatArray, beta: float) -> FloatArray:
    """Return the mean 0/1 reward of the best policy under a KL penalty `beta` from one of pass rate p."""
    odds = float(np.exp(1.0 / beta))
    return rate_P * odds / (1.0 - rate_P + rate_P * odds)


def shared(groups: Groups, value_P: FloatArray) -> FloatArray:
    """Return each prompt's baseline from the other prompts' rewards, (P,), all in [0, 1].

    A prompt near 0 or 1, and one without another, has its own value.
    """
    active_P = (groups.count_P > 0) & (value_P >= MARGIN) & (value_P <= 1.0 - MARGIN)
    # v / s^2 = 1 / (1 - v); the mean of k rollouts has a k-th of the variance.
    inverse_P = np.divide(1.0, 1.0 - value_P, out=np.zeros(groups.prompts), where=active_P)
    top_P, bottom_P = groups.sum_P * inverse_P, groups.count_P * value_P * inverse_P
    usable_P = active_P & (active_P.sum() > 1)
    ratio_P = np.ones(groups.prompts)
    np.divide(top_P.sum() - top_P, bottom_P.sum() - bottom_P, out=ratio_P, where=usable_P)
    return np.clip(value_P * ratio_P, 0.0, 1.0)
