"""Base of all fusions: prior and observed rewards become one baseline per rollout.

`fuse` is pure. Most fusions keep nothing; one that `remembers` learns in `observe`, after the step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from trainables.errors import StrategyError
from trainables.strategies.batch import BoolArray, FloatArray
from trainables.strategies.groups import Groups
from trainables.strategies.value_estimate import ValueEstimate


@dataclass(frozen=True)
class Baseline:
    """A baseline per rollout, in reward units."""

    mean_N: FloatArray
    """0 where `scored_N` is False."""
    scored_N: BoolArray
    """Rollouts that have a baseline; the others are not trained."""
    w_P: FloatArray | None = None
    """Mean weight of the group's own data in a prompt's baseline, in [0, 1]."""
    tokens: tuple[FloatArray, ...] | None = None
    """A baseline for every state, N arrays of shape (T_n,), where the fusion makes one of token values."""
    notes: Mapping[str, float] = field(default_factory=dict)
    """Scalars for the log that only this fusion has."""


class Fusion(ABC):
    """Subclass this for a fusion of your own."""

    leaves_out: ClassVar[bool] = False
    """True: a rollout's baseline does not contain its own reward. A property where a parameter says so."""
    keeps_tokens: ClassVar[bool] = False
    """True: values per token stay per token, and the estimator makes advantages of them."""
    mixes_prior: ClassVar[bool] = False
    """True: the fusion cannot do without a prior."""
    needs_pair: ClassVar[bool] = False
    """True: the advantage of a group of one rollout is always 0. A property where a parameter says so."""
    remembers: ClassVar[bool] = False
    """True: `observe` is called after each step, and the state is saved with the prior's."""

    @property
    def leaves_out_states(self) -> bool:
        """True: the value estimate in a rollout's baseline does not come from its own states."""
        return self.leaves_out

    @abstractmethod
    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        """Return baselines of (N,) rollouts. `estimate` is None only where the strategy has no prior."""

    def others(self, groups: Groups) -> tuple[FloatArray, FloatArray]:
        """Return count and sum of the values beside each rollout's own that its baseline may read, (N,)."""
        return groups.others()

    def observe(self, groups: Groups, estimate: ValueEstimate | None) -> None:
        """Learn from the step, after its update. `estimate` is what `fuse` was given in this step."""
        return

    def state_dict(self) -> dict[str, Any]:
        """Return what was learned: plain values and NumPy arrays."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly what `state_dict` returned."""
        return


def required(estimate: ValueEstimate | None, fusion: str) -> ValueEstimate:
    """Return the value estimate.

    Raises:
        StrategyError: the strategy has no prior.
    """
    if estimate is None:
        raise StrategyError(f"strategy.prior: none, but fusion {fusion!r} needs one; set strategy.prior")
    return estimate


def masked(mean_N: FloatArray, scored_N: BoolArray, w_P: FloatArray | None = None) -> Baseline:
    """Return a Baseline with 0 in the rows that have none; NaN (a prior without an opinion) is none."""
    scored_N = scored_N & np.isfinite(mean_N)
    return Baseline(np.where(scored_N, mean_N, 0.0), scored_N, w_P)
