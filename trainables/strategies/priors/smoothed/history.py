"""What runs as prior `kernel`: the rewards of past steps, and their kernel means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from trainables.strategies.batch import Batch, IntArray, Stats
from trainables.strategies.priors.base import Prior
from trainables.strategies.priors.running import MASS
from trainables.strategies.priors.smoothed.visits import Visits
from trainables.strategies.scale import UNIT, Scale
from trainables.strategies.value_estimate import ValueEstimate

if TYPE_CHECKING:
    from trainables.strategies.priors.smoothed.kernel import KernelPrior


@dataclass
class History(Prior):
    """Kernel means of prompts. A prompt without a past is estimated at the kernel mean of all that have one.

    A visit that the kernel no longer reaches is forgotten: (i - i_j) / i only grows with i.
    """

    config: KernelPrior
    scale: Scale = UNIT
    visits: Visits = field(default_factory=Visits)

    def predict(self, batch: Batch) -> ValueEstimate:
        return self.predict_prompts(batch.prompt_id_P, batch.stratum_P)

    def predict_prompts(self, prompt_C: IntArray, stratum_C: IntArray) -> ValueEstimate:
        weight_V = self.config.weight(self.visits.age_V, self.visits.steps + 1)
        _, _, count_V, sum_V = self.visits.row_4V
        pool = ((weight_V * sum_V).sum() + MASS * self.config.start) / ((weight_V * count_V).sum() + MASS)
        count_C, sum_C = self.visits.sums(weight_V, prompt_C)
        mean_C = np.divide(sum_C, count_C, out=np.full(len(prompt_C), pool), where=count_C > 0)
        # The quotient of two sums may leave the range by a rounding error.
        mean_P = self.scale.reward(np.clip(mean_C, 0.0, 1.0))
        return ValueEstimate(mean_P=mean_P, evidence_P=count_C, fresh_P=np.asarray(count_C == 0))

    def observe(self, batch: Batch, stats: Stats) -> None:
        self.visits.add(batch, self.scale)
        self.visits.keep(self.config.weight(self.visits.age_V, self.visits.steps + 1) > 0)

    def state_dict(self) -> dict[str, Any]:
        return self.visits.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.visits.load_state_dict(state)
