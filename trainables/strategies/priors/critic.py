"""Values of a critic that the learner trains: per token (PPO, arXiv 1707.06347) or per prompt (SPPO)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trainables.errors import StrategyError
from trainables.strategies.batch import Batch, CriticNeeds, FloatArray, Needs, Stats
from trainables.strategies.priors.base import Prior
from trainables.strategies.scale import UNIT, Scale, verified_N
from trainables.strategies.value_estimate import ValueEstimate


@dataclass
class CriticPrior(Prior):
    """Believes the critic, clipped to the reward range. A state's value does not depend on the token drawn
    from it, so reading a rollout's own values is unbiased.

    While `warmup_updates` steps train the critic alone it is silent, and nothing is trained under it.
    """

    level: Literal["token", "prompt"] = "token"
    lr: float = 1e-5
    mini_batches: int = 1
    warmup_updates: int = 0
    start: float = 0.5
    clip: float | None = None
    scale: Scale = UNIT
    seen: int = 0
    """Steps observed."""

    def needs(self) -> Needs:
        start = float(self.scale.low + self.scale.width * self.start)
        clip = None if self.clip is None else float(self.scale.width * self.clip)
        return Needs(values=CriticNeeds(self.level, self.lr, self.mini_batches, start, clip))

    def predict(self, batch: Batch) -> ValueEstimate:
        low, high = self.scale.low, self.scale.high
        values = tuple(np.clip(value_T, low, high) for value_T in _required(batch))
        warming = self.seen < self.warmup_updates
        silent_N = np.ones(batch.rollouts, np.bool_) if warming else None
        if self.level == "token":
            return ValueEstimate(tokens=values, silent_N=silent_N)
        mean_P = np.zeros(batch.prompts)
        mean_P[batch.prompt_N] = [value_T[0] for value_T in values]
        return ValueEstimate(mean_P=mean_P, silent_N=silent_N)

    def targets(self, batch: Batch) -> tuple[FloatArray, ...]:
        """The rollout's reward for each of its states; no target where the verifier failed."""
        reward_N = np.where(verified_N(batch), batch.correct_N, np.nan)
        return tuple(
            np.full(len(value_T), reward) for value_T, reward in zip(_required(batch), reward_N, strict=True)
        )

    def observe(self, batch: Batch, stats: Stats) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = int(state["seen"])


def _required(batch: Batch) -> tuple[FloatArray, ...]:
    if batch.values is None:
        raise StrategyError("strategy.prior: 'critic' reads values, and this batch has none")
    return batch.values
