"""Base of all priors: what we believe about a prompt before (or without) its own group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from trainables.strategies.batch import Batch, FloatArray, IntArray, Kind, Needs, PromptVectors, Stats
from trainables.strategies.value_estimate import ValueEstimate


class Prior(ABC):
    """Subclass this for a prior of your own: `predict` is enough if it keeps no state.

    `predict` may read everything in the batch except the rewards of the prompt it speaks about. State
    changes in `observe` only, so this step's rewards never enter this step's prior.
    """

    extra: Kind | None = None
    """Kind of one additional, untrained rollout per prompt that the prior reads (ReMax: greedy)."""

    def needs(self) -> Needs:
        """What the loop must compute for `predict`."""
        return Needs()

    reads_own: bool = False
    """True: a rollout's own states enter its value estimate: only a fusion that leaves it out is unbiased."""

    def provide(self, vectors: PromptVectors) -> None:
        """Take the prompt vectors that `needs().encoder` asked for; once, before the first step."""
        return

    @abstractmethod
    def predict(self, batch: Batch) -> ValueEstimate | None:
        """Estimate the values of this batch's prompts, rollouts or tokens; None: no opinion at all."""

    def predict_prompts(self, prompt_C: IntArray, stratum_C: IntArray) -> ValueEstimate | None:
        """Estimate values of prompts that were not sampled yet, (C,); None: the prior needs trajectories."""
        return None

    def observe(self, batch: Batch, stats: Stats) -> None:
        """After the update: learn from the step."""
        return

    def targets(self, batch: Batch) -> tuple[FloatArray, ...] | None:
        """Value targets for the learner's critic, N arrays of shape (T_n,), NaN = none; None: no critic."""
        return None

    def metrics(self, batch: Batch) -> dict[str, float]:
        """Scalars for the log, beside those that every prior has (see `diagnostics`)."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        return None
