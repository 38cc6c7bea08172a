"""Fusion `tether`: the group's other rollouts and the value, mixed as past rewards ask for.

    b = (1 - rho) m + rho V
    fit = clip(sum (r - m) (V - m) / sum (V - m)^2, 0, 1);  rho <- decay rho + (1 - decay) fit, from 0

m: mean of the group's other rollouts; V: the value of each state. The sums run over the states of the last
`window` steps: a step is never scored with a rho that was fitted to its own rewards. Unbiased.
Source: TETHER (arXiv 2608.16739, eq. 15 to 17 and 22). Read: the text. Its `window` is one step.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from trainables.strategies.fusion.base import Baseline, Fusion
from trainables.strategies.fusion.judged.mixture import Mixture
from trainables.strategies.groups import Groups
from trainables.strategies.members.base import Member, Share
from trainables.strategies.value_estimate import ValueEstimate


class Tether(Member, Fusion):
    """Mean of the group's other rollouts, mixed with the value by a fitted weight (TETHER).

    A rollout alone in its group is not trained: the paper's m needs another one.
    """

    type: Literal["tether"] = "tether"
    decay: Share = 0.95
    """Share of the old rho that survives a fit."""
    window: Annotated[int, Field(ge=1)] = 1
    """Steps whose rewards make one fit."""

    leaves_out: ClassVar[bool] = True
    mixes_prior: ClassVar[bool] = True
    needs_pair: ClassVar[bool] = True

    def running(self, axis: str, kind: Any) -> Mixture:
        """Return what remembers rho."""
        return Mixture(self)

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        """Return the baselines of a first step: those at rho = 0."""
        return Mixture(self).fuse(groups, estimate)
