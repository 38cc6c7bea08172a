"""What the learner's passes and updates give back. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.learner.tokens import Float32
from trainables.strategies.batch import Features


@dataclass(frozen=True)
class Forward:
    """What a teacher-forced pass gives for M response tokens."""

    logprob_M: Float32
    """Log-prob of each response token at the sampling temperature."""
    entropy_M: Float32
    """Full-vocabulary entropy at each response position, nats."""
    features: Features | None = None
    """Pooled hidden states, if they were asked for."""


@dataclass(frozen=True)
class UpdateStats:
    """One optimizer update of the policy. On a rank, sums are over its own tokens; the norm is global."""

    gradient_norm: float
    loss: float
    clipped_tokens: float
    capped_tokens: float
    """Tokens whose sampler/learner importance weight hit the cap."""
    tokens: int
    kl_reference: float = 0.0
    """Sum of the tokens' KL to the reference, nats; 0 without a reference."""


@dataclass(frozen=True)
class ValueStats:
    """One optimizer update of the critic."""

    loss: float
    gradient_norm: float
    clipped: float = 0.0
    """Share of the fitted positions whose loss clipping has made constant."""
