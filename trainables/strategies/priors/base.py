"""Bases of all priors: what we believe about a prompt before (or without) its own group.

A `Prior` runs and may learn; a `PriorMember` is the frozen model of its parameters, which starts it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from trainables.strategies.batch import Batch, FloatArray, IntArray, Kind, Needs, PromptVectors, Stats
from trainables.strategies.members.base import Member
from trainables.strategies.scale import Scale
from trainables.strategies.value_estimate import ValueEstimate


class Prior(ABC):
    """Subclass this for a prior of your own: `predict` is enough if it keeps no state.

    `predict` may read everything in the batch except the rewards of the prompt it speaks about. State
    changes in `observe` only, so this step's rewards never enter this step's prior.
    """

    extra: ClassVar[Kind | None] = None
    """Kind of one additional, untrained rollout per prompt that the prior reads (ReMax: greedy)."""
    reads_own: ClassVar[bool] = False
    """True: a rollout's own states enter its value estimate: only a fusion that leaves it out is unbiased."""

    def needs(self) -> Needs:
        """Return what the loop must compute for `predict`."""
        return Needs()

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
        """Learn from the step, after its update."""
        return

    def targets(self, batch: Batch) -> tuple[FloatArray, ...] | None:
        """Return the critic's value targets, N arrays of shape (T_n,), NaN = none; None: no critic."""
        return None

    def metrics(self, batch: Batch) -> dict[str, float]:
        """Return scalars for the log, beside those that every prior has (see `diagnostics`)."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what was learned: plain values and NumPy arrays."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly what `state_dict` returned."""
        return


class PriorMember(Member):
    """Base of the priors' models. Parameters stand here only; what runs reads them through the model."""

    foresight: ClassVar[bool] = False
    """True: it speaks before anything is sampled, so `allocated` and `weighted` budgets may choose by it."""
    gives_spread: ClassVar[bool] = False
    """True: its estimates carry the spread between prompts (`sd_P`) and within them (`within_P`)."""
    gives_tokens: ClassVar[bool] = False
    """True: it estimates a value for every token."""
    extra_rollouts: ClassVar[int] = 0
    """What every prompt costs beside its samples."""

    @abstractmethod
    def begin(self, scale: Scale) -> Prior:
        """Return the prior that runs, before any evidence. `scale` is the declared reward range."""
