"""Presets whose prior is learned beside the policy: POISE, PPO and SPPO."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainables.strategies.budget.fixed import Fixed
from trainables.strategies.estimators.gae import Gae
from trainables.strategies.fusion.prior_only import PriorOnly
from trainables.strategies.members.base import GroupSize, PairSize, Positive
from trainables.strategies.normalisers import BatchStd
from trainables.strategies.presets.base import Axes, Preset, WithCritic
from trainables.strategies.priors.probe import ProbePrior


class Poise(Preset):
    """POISE (arXiv 2605.07579, algorithm 1): r - probe(states of the group's other rollouts).

    Leave-one-out (RLOO) while the probe's buffer fills. Defaults are the released code's (PCA 32 + 64 of raw
    states, its scores standardised, penalty 100), the paper's own are no PCA and .01. Departs: reasoning ends
    at the last `</think>`; the code's at the first one that follows a `<think>`.
    """

    group_size: PairSize = 2
    warmup_updates: int = Field(default=16, ge=0)
    """Updates with the leave-one-out baseline first."""
    depth: float = Field(default=0.53, gt=0, le=1)
    """Relative depth of the decoder block that is read."""
    layer: int | Literal["auto"] | None = Field(default=None)
    """The block by its number, from 0, or the one with the smallest trailing error."""
    survey: bool = False
    """Score all blocks at each step."""
    window: int = Field(default=10, ge=1)
    model: Literal["ridge", "logistic", "mlp"] = "ridge"
    penalty: Positive = 100.0
    pca_prompt: int = Field(default=32, ge=0)
    pca_response: int = Field(default=64, ge=0)
    order: Literal["released", "standardised"] = "released"
    """PCA of raw states with standardised scores, or of standardised states."""
    buffer: int = Field(default=4096, ge=16)
    per_stratum: bool = False

    def axes(self) -> Axes:
        own = self.model_dump(exclude={"group_size", "warmup_updates"})
        point: Axes = {
            "prior": ProbePrior(**own),
            "fusion": PriorOnly(leave_one_out=True),
            "budget": Fixed(group_size=self.group_size),
        }
        if self.warmup_updates:
            point["warmup"] = {
                "updates": self.warmup_updates,
                "strategy": {"preset": "rloo", "group_size": self.group_size},
            }
        return point


class Ppo(WithCritic):
    """PPO (arXiv 1707.06347) with a critic: GAE, discount 1, whitened over the batch's tokens.

    Departs: the critic is a model of its own, started from the policy's weights.
    """

    group_size: GroupSize = 1
    lam: float = Field(default=1.0, ge=0, le=1)
    length_adaptive: float = Field(default=0.0, ge=0)
    """VAPO's a in lambda = 1 - 1/(a T), limited to [0, 1]; 0 = `lam` for every length."""
    critic_clip: Positive | None = 0.2
    """Range of the clipped value loss; null = not clipped. It matters from the second mini-batch on."""

    def axes(self) -> Axes:
        return {
            "prior": self.critic(clip=self.critic_clip),
            "fusion": PriorOnly(),
            "budget": Fixed(group_size=self.group_size),
            "estimator": Gae(lam=self.lam, length_adaptive=self.length_adaptive),
            "normaliser": BatchStd(center=True),
        }


class Sppo(WithCritic):
    """SPPO (arXiv 2604.08865): a critic that sees the prompt only; A = r - V(x), whitened.

    V(x) = sigmoid(head(last prompt token)). Departs: the critic is a model of its own, started from the
    policy's weights; the released code (sustech-nlp/SPPO at 55e8a72) does not whiten: `normaliser: none`.
    """

    group_size: GroupSize = 1

    def axes(self) -> Axes:
        return {
            "prior": self.critic(level="prompt"),
            "fusion": PriorOnly(),
            "budget": Fixed(group_size=self.group_size),
            "normaliser": BatchStd(center=True),
        }
