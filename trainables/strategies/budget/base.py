"""Base of all budgets: how many rollouts each prompt gets, and when to stop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from trainables.errors import StrategyError
from trainables.strategies.batch import (
    Batch,
    Decision,
    FloatArray,
    IntArray,
    Kind,
    Pool,
    Requests,
    RolloutBudget,
)
from trainables.strategies.groups import Groups
from trainables.strategies.scale import UNIT, Scale
from trainables.strategies.value_estimate import ValueEstimate


@dataclass(frozen=True)
class Outlook:
    """What a budget may look at before sampling."""

    pool: Pool
    rollout_budget: RolloutBudget
    wanted: int | None
    """Fresh prompts an earlier decision asked for; None at the start of the step."""
    overhead: int = 0
    """Further rollouts of each prompt that the prior needs (ReMax: the greedy one)."""
    estimate: ValueEstimate | None = None
    """ValueEstimate about the pool's prompts, (C,); only for budgets with `foresight`."""
    scale: Scale = UNIT

    @property
    def rate_C(self) -> FloatArray:
        """Predicted pass rates of the pool's prompts, in [0, 1]."""
        if self.estimate is None or self.estimate.mean_P is None:
            raise StrategyError(
                "strategy.prior: cannot speak about prompts before they are sampled, as this budget needs; "
                "set prior to strata, tracker or global"
            )
        return self.scale.unit(self.estimate.mean_P)

    def prompts(self, each: int, rollout_budget: int | None = None) -> int:
        """Prompts of `each` rollouts (and the overhead) that fit `rollout_budget`, the pool and the wish."""
        left = (
            self.rollout_budget.rollouts
            if rollout_budget is None
            else min(rollout_budget, self.rollout_budget.rollouts)
        )
        fit = min(left // (each + self.overhead), len(self.pool.prompt_C))
        return fit if self.wanted is None else min(fit, self.wanted)

    def take(self, prompts: int, each: int) -> Requests:
        """`each` samples of the first `prompts` prompts of the pool."""
        return Requests.samples(self.pool.prompt_C[:prompts], each)


@dataclass(frozen=True)
class Progress:
    """What a budget may look at after a round."""

    batch: Batch
    groups: Groups
    """`correct` of the valid rollouts."""
    rollout_budget: RolloutBudget
    prior_P: FloatArray | None = None
    """ValueEstimate per prompt; only for budgets that read the prior."""
    overhead: int = 0

    @property
    def drawn_P(self) -> IntArray:
        """Samples paid for per prompt, whatever the verifier said: caps count these."""
        sampled_N = self.batch.kind_N == Kind.SAMPLE
        return np.bincount(self.batch.prompt_N[sampled_N], minlength=self.batch.prompts)


class Budget(ABC):
    """Subclass this for your own budget. The loop enforces the rollout budget, whatever `decide` asks for."""

    reads_prior: bool = False
    """True: `decide` gets `prior_P`."""
    foresight: bool = False
    """True: `select` gets a value estimate about the pool."""
    whole_pool: bool = True
    """False: with `foresight`, only prompts that come next are looked at, no more than there is room for."""

    @abstractmethod
    def select(self, outlook: Outlook) -> Requests:
        """Which prompts to sample, and how often. Within `outlook.room.rollouts`."""

    def decide(self, progress: Progress) -> Decision:
        """After each round. The default is done."""
        return Decision()

    def notes(self, progress: Progress) -> dict[str, float]:
        """Diagnostics of this budget's own, at the end of a step."""
        return {}

    def shortfall(self, progress: Progress) -> float:
        """Share of the step's prompts that wanted more rollouts than they got (diagnostic)."""
        return 0.0
