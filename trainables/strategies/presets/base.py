"""Base of the presets."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

from pydantic import Field

from trainables.strategies.members.base import Frozen, Positive
from trainables.strategies.priors.critic import CriticPrior

Axes = dict[str, Any]


class Preset(Frozen):
    """The fields are the preset's parameters, `axes` the point they stand for."""

    @abstractmethod
    def axes(self) -> Axes:
        """Return axis -> member. What is left out has its default (no prior, Monte Carlo, no normaliser)."""


class WithCritic(Preset):
    """Base of the presets that train a critic beside the policy."""

    critic_lr: Positive = 1e-5
    critic_mini_batches: int = Field(default=1, ge=1)
    warmup_updates: int = Field(default=0, ge=0)
    """Steps that train the critic only."""

    def critic(self, level: Literal["token", "prompt"] = "token", clip: float | None = None) -> CriticPrior:
        """Return the critic with these settings."""
        return CriticPrior(
            level=level,
            lr=self.critic_lr,
            mini_batches=self.critic_mini_batches,
            clip=clip,
            warmup_updates=self.warmup_updates,
        )
