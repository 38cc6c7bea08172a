"""Base of all budgets: how many rollouts each prompt gets, and when to stop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

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
    Stats,
)
from trainables.strategies.fusion.base import Fusion
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
    """Value estimate of the pool's prompts, (C,); only for budgets with `foresight`."""
    scale: Scale = UNIT

    @property
    def rate_C(self) -> FloatArray:
        """Predicted pass rates of the pool's prompts, in [0, 1].

        Raises:
            StrategyError: the prior cannot speak before sampling.
        """
        if self.estimate is None or self.estimate.mean_P is None:
            raise StrategyError(
                "strategy.prior: cannot speak about prompts before they are sampled, as this budget needs; "
                "set prior to strata, tracker or global"
            )
        return self.scale.unit(self.estimate.mean_P)

    def prompts(self, each: int, rollout_budget: int | None = None) -> int:
        """Return how many prompts of `each` rollouts, and the overhead, may start.

        They fit `rollout_budget` (None = all that is left), the pool and the number that is wanted.
        """
        left = (
            self.rollout_budget.rollouts
            if rollout_budget is None
            else min(rollout_budget, self.rollout_budget.rollouts)
        )
        fit = min(left // (each + self.overhead), len(self.pool.prompt_C))
        return fit if self.wanted is None else min(fit, self.wanted)

    def take(self, prompts: int, each: int) -> Requests:
        """Request `each` samples of the first `prompts` prompts of the pool."""
        return Requests.samples(self.pool.prompt_C[:prompts], each)

    def open(self, each: int, share: float) -> Requests:
        """Request `each` samples of the next prompts.

        At the start of a step they are paid out of `share` of it, later out of all that is left. A step too
        small for that still opens with one prompt.
        """
        first = None
        if self.wanted is None:
            # 1e-9: (1 - 0.9) * 160 must be 16, not 15.99...
            first = max(int(self.rollout_budget.total * share + 1e-9), each + self.overhead)
        return self.take(self.prompts(each, first), each)


@dataclass(frozen=True)
class Progress:
    """What a budget may look at after a round."""

    batch: Batch
    groups: Groups
    """`correct` of the valid rollouts."""
    rollout_budget: RolloutBudget
    prior_P: FloatArray | None = None
    """Value estimate per prompt; only for budgets that read the prior."""
    overhead: int = 0
    fusion: Fusion | None = None
    """The strategy's fusion: a budget that stops by a test may ask the fusion's own."""

    @property
    def drawn_P(self) -> IntArray:
        """Samples paid for per prompt, whatever the verifier said: caps count these."""
        return drawn(self.batch)


def drawn(batch: Batch) -> IntArray:
    """Return the samples paid for per prompt, (P,), whatever the verifier said."""
    return np.bincount(batch.prompt_N[batch.kind_N == Kind.SAMPLE], minlength=batch.prompts)


class Budget(ABC):
    """Subclass this for your own budget. The loop enforces the rollout budget, whatever `decide` asks for."""

    reads_prior: ClassVar[bool] = False
    """True: `decide` gets `prior_P`."""
    foresight: ClassVar[bool] = False
    """True: `select` gets a value estimate of the pool's prompts."""
    whole_pool: ClassVar[bool] = True
    """False: with `foresight`, only the next prompts are looked at, at most one per rollout of the step."""
    remembers: ClassVar[bool] = False
    """True: it has state, which changes in `observe` only and is in `state_dict`."""

    @abstractmethod
    def select(self, outlook: Outlook) -> Requests:
        """Choose prompts to sample, and how often. At most `outlook.rollout_budget.rollouts` in all."""

    def decide(self, progress: Progress) -> Decision:
        """Decide after each round whether to draw more. The default is done."""
        return Decision()

    def observe(self, batch: Batch, stats: Stats, scale: Scale) -> None:
        """Learn from the step, after its update. `scale` is the declared reward range."""
        return

    def state_dict(self) -> dict[str, Any]:
        """Return what was learned: plain values and NumPy arrays."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly what `state_dict` returned."""
        return

    def notes(self, progress: Progress) -> dict[str, float]:
        """Return diagnostics of this budget's own, at the end of a step."""
        return {}

    def shortfall(self, progress: Progress) -> float:
        """Return the share of the step's prompts that wanted more rollouts than they got (diagnostic)."""
        return 0.0

    def first_round(self) -> int:
        """Return the fewest rollouts that a prompt has after its first round."""
        return 1

    def least(self) -> int:
        """Return how many rollouts a step must hold to sample a single prompt."""
        return self.first_round()

    def rounds(self) -> int:
        """Return the rounds of sampling after which every cap of the budget is reached."""
        return 1
