"""What runs as fusion `tether`: the weight of the value, and the sums of the next fit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from trainables.strategies.batch import FloatArray
from trainables.strategies.fusion.base import Baseline, Fusion, masked, required
from trainables.strategies.fusion.judged.states import States
from trainables.strategies.groups import Groups
from trainables.strategies.value_estimate import ValueEstimate

if TYPE_CHECKING:
    from trainables.strategies.fusion.judged.tether import Tether

APART = 1e-12
"""Values that are no further from the group's mean than this, squared and summed, fit no weight."""


@dataclass
class Mixture(Fusion):
    """Mixes at `rho`, which changes in `observe` only."""

    config: Tether
    rho: float = 0.0
    """Weight of the value estimate, in [0, 1]."""
    sums_2: FloatArray = field(default_factory=lambda: np.zeros(2))
    """Numerator and denominator of the next fit."""
    gathered: int = 0
    """Steps in them."""

    leaves_out: ClassVar[bool] = True
    mixes_prior: ClassVar[bool] = True
    needs_pair: ClassVar[bool] = True
    remembers: ClassVar[bool] = True

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        states = States.of(groups, required(estimate, "tether"))
        count_N, sum_N = groups.others()
        mean_S = (sum_N / np.maximum(count_N, 1.0))[states.rollout_S]
        mixed_S = mean_S + self.rho * (states.value_S - mean_S)
        fused = masked(states.first_N(mixed_S), count_N >= 1, np.full(groups.prompts, 1.0 - self.rho))
        return replace(fused, tokens=states.split(mixed_S), notes={"tether_rho": self.rho})

    def observe(self, groups: Groups, estimate: ValueEstimate | None) -> None:
        states = States.of(groups, required(estimate, "tether"))
        count_N, sum_N = groups.others()
        used_S = states.used_S & (count_N >= 1)[states.rollout_S]
        rollout_S = states.rollout_S[used_S]
        mean_S = (sum_N / np.maximum(count_N, 1.0))[rollout_S]
        away_S = states.value_S[used_S] - mean_S
        fresh = [float(((groups.value_N[rollout_S] - mean_S) * away_S).sum()), float((away_S**2).sum())]
        self.sums_2, self.gathered = self.sums_2 + np.array(fresh), self.gathered + 1
        if self.gathered < self.config.window:
            return
        top, bottom = self.sums_2.tolist()
        if bottom > APART:
            decay = self.config.decay
            self.rho = decay * self.rho + (1.0 - decay) * min(max(top / bottom, 0.0), 1.0)
        self.sums_2, self.gathered = np.zeros(2), 0

    def state_dict(self) -> dict[str, Any]:
        return {"rho": self.rho, "sums_2": self.sums_2.copy(), "gathered": self.gathered}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rho, self.gathered = float(state["rho"]), int(state["gathered"])
        self.sums_2 = np.asarray(state["sums_2"], np.float64).copy()
