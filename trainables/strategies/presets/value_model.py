"""Presets around a generalist value model: V0.5 and V0."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainables.strategies.budget.allocated import Allocated
from trainables.strategies.budget.sequential import Sequential
from trainables.strategies.fusion.group_mean import GroupMean
from trainables.strategies.fusion.tested import PAPER_ALPHA, Tested
from trainables.strategies.members.base import Alpha, GroupSize, Keep, PairSize, Positive, Share
from trainables.strategies.normalisers import GroupStd
from trainables.strategies.presets.base import Axes, Preset
from trainables.strategies.priors.context import ContextPrior


class V05(Preset):
    """V0.5 (arXiv 2603.10848, theorem 3.1-3.4): tested shrinkage to a prior, sequential budget.

    Departs: the value model is a Gaussian process on the policy's own record, with nothing to download; the
    level alpha is free (its default is the paper's rule); extras come out of a reserve of the step's
    rollouts and are spent where the predicted gain is largest. Uniform groups are kept: the prior gives
    them signal.
    """

    group_size: GroupSize = 4
    """First-round rollouts of a prompt (the paper's k_min)."""
    k_max: GroupSize = 16
    alpha: Alpha = PAPER_ALPHA
    cost: Positive = 1.0 / 256.0
    reserve: Share = 0.25
    draw: int = Field(default=1, ge=1)
    keep: Keep = 0.9
    """Share of the prior's old evidence that survives a step."""
    context: int = Field(default=256, ge=1, le=4096)
    """Pairs of the policy's record that the prior reads."""

    def axes(self) -> Axes:
        return {
            "prior": ContextPrior(size=self.context, keep=self.keep),
            "fusion": self.fusion(),
            "budget": Sequential(
                k_min=self.group_size,
                k_max=self.k_max,
                cost=self.cost,
                reserve=self.reserve,
                draw=self.draw,
            ),
        }

    def fusion(self) -> Tested:
        return Tested(alpha=self.alpha)


class V05Loo(V05):
    """V0.5 with mean, count and prior without the scored rollout: no self-coupling (not in the paper)."""

    def fusion(self) -> Tested:
        return Tested(alpha=self.alpha, leave_one_out=True)


class V05Unbiased(V05):
    """V0.5 made unbiased under sequential stopping (not in the paper).

    A rollout's baseline uses earlier rounds and the others of its own round; rollouts are summed.
    """

    def fusion(self) -> Tested:
        return Tested(alpha=self.alpha, leave_one_out=True, per_round=True)


class V0(Preset):
    """V0 (arXiv 2602.03584, section 4.3): GRPO with rollouts allocated by predicted pass rate.

    Departs: the exact dynamic programme is offered beside the paper's greedy rule.
    """

    group_size: PairSize = 16
    low: PairSize = 2
    high: PairSize = 128
    method: Literal["greedy", "lagrangian", "exact"] = "greedy"
    context: int = Field(default=256, ge=1, le=4096)

    def axes(self) -> Axes:
        return {
            "prior": ContextPrior(size=self.context),
            "fusion": GroupMean(),
            "budget": Allocated(group_size=self.group_size, low=self.low, high=self.high, method=self.method),
            "normaliser": GroupStd(),
        }
