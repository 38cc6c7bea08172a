"""Presets that judge their value model by past rewards, or smooth rewards over steps or prompts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainables.strategies.budget.fixed import Fixed
from trainables.strategies.fusion.evidence import Evidence
from trainables.strategies.fusion.judged.gated import Gated
from trainables.strategies.fusion.judged.tether import Tether
from trainables.strategies.fusion.prior_only import PriorOnly
from trainables.strategies.members.base import GroupSize, Keep, PairSize, Positive, Share
from trainables.strategies.presets.base import Axes, Preset, WithCritic
from trainables.strategies.priors.smoothed.batchwise import BatchwisePrior
from trainables.strategies.priors.smoothed.kernel import KernelPrior


class TetherPreset(WithCritic):
    """TETHER (arXiv 2608.16739, section 5): r - ((1 - rho) mean of the others + rho V), rho from past steps.

    Departs: the critic is a model of its own, started from the policy's weights and trained in the step by
    squared error (the paper: beside it, from a replay buffer, by cross-entropy). It is not trained before
    the policy (the paper: 20 updates; `warmup_updates`). V is kept within the reward range.
    """

    group_size: PairSize = 4
    decay: Share = 0.95
    """Share of the old rho that survives a fit."""
    window: int = Field(default=1, ge=1)
    """Steps whose rewards make one fit (the paper: one)."""

    def axes(self) -> Axes:
        return {
            "prior": self.critic(),
            "fusion": Tether(decay=self.decay, window=self.window),
            "budget": Fixed(group_size=self.group_size),
        }


class Evpo(WithCritic):
    """EVPO (arXiv 2604.19485): r - V of a critic while its explained variance is positive, else r - mean r.

    Departs: explained variance and mean leave the scored rollout out, which keeps the gate unbiased. The
    advantage is Monte Carlo and is not divided; whether the paper's is was not seen. The critic is a model
    of its own, started from the policy's weights.
    """

    group_size: GroupSize = 4
    otherwise: Literal["batch", "group"] = "batch"
    """Whose mean the baseline is while the gate is shut."""

    def axes(self) -> Axes:
        return {
            "prior": self.critic(),
            "fusion": Gated(otherwise=self.otherwise),
            "budget": Fixed(group_size=self.group_size),
        }


class Kae(Preset):
    """KAE (arXiv 2604.28005): r - kernel mean of the prompt's past rewards and of the group's other ones.

    Departs: prompts come in the epoch's order (the paper uses a block of them in 8 or 10 steps in a row, so
    that the past is recent); a prompt without a past and alone in its group takes the mean of all prompts;
    the default bandwidth is trimtab's.
    """

    group_size: GroupSize = 4
    bandwidth: Positive = 1.0
    """The kernel's width as a share of the steps so far."""
    shape: Literal["triangular", "exponential"] = "triangular"

    def axes(self) -> Axes:
        return {
            "prior": KernelPrior(bandwidth=self.bandwidth, shape=self.shape),
            "fusion": Evidence(),
            "budget": Fixed(group_size=self.group_size),
        }


class Basis(Preset):
    """BASIS (arXiv 2605.27293): r - weighted mean of the other prompts' rewards, one rollout per prompt.

    Departs: a prompt's value comes from its record in training (the paper: from samples of the reference
    model, before it); beta is the one that fitted the previous step best (the paper: this one), so that no
    reward enters its own baseline; a prompt whose value is near 0 or 1 has that value as baseline (the
    paper: 0). Grid, margin and the default of `keep` are trimtab's.
    """

    group_size: GroupSize = 1
    keep: Keep = 0.99
    """Share of a prompt's record that survives a step."""

    def axes(self) -> Axes:
        return {
            "prior": BatchwisePrior(keep=self.keep),
            "fusion": PriorOnly(),
            "budget": Fixed(group_size=self.group_size),
        }
