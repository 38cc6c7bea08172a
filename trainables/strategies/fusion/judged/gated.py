"""Fusion `gated`: the value only while it explains variance (EVPO, arXiv 2604.19485).

    EV = 1 - Var(r - V) / Var(r) over the step's states;  b = V if EV > 0, else the mean reward

Read: the paper's abstract, a summary of its text, and TETHER (arXiv 2608.16739), which repeats the gate.
Abstract and summary say that the mean is the batch's; TETHER says the group's.
A gate that read the scored rollout would depend on its reward. So EV and mean are those of the *other*
rollouts, which the paper does not ask for: every rollout has a gate of its own, and it is unbiased.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from trainables.strategies.batch import FloatArray
from trainables.strategies.fusion.base import Baseline, Fusion, masked, required
from trainables.strategies.fusion.judged.explained import explained
from trainables.strategies.fusion.judged.states import States
from trainables.strategies.groups import Groups
from trainables.strategies.members.base import Member
from trainables.strategies.value_estimate import ValueEstimate


class Gated(Member, Fusion):
    """The value while its explained variance is positive, else the mean of the other rollouts (EVPO)."""

    type: Literal["gated"] = "gated"
    otherwise: Literal["batch", "group"] = "batch"
    """Whose mean the baseline is while the gate is shut."""

    leaves_out: ClassVar[bool] = True
    mixes_prior: ClassVar[bool] = True

    @property
    def needs_pair(self) -> bool:  # type: ignore[override]  # by a parameter, not by class
        return self.otherwise == "group"

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        states = States.of(groups, required(estimate, self.type))
        gain = explained(groups, states)
        count_N, sum_N = groups.others() if self.otherwise == "group" else _rest(groups)
        mean_N = np.divide(sum_N, count_N, out=np.full(len(sum_N), np.nan), where=count_N > 0)
        shut_N = ~gain.open_N
        fused_S = np.where(shut_N[states.rollout_S], mean_N[states.rollout_S], states.value_S)
        # The batch's mean is hardly the group's own data: its share of the batch.
        own_P = 1.0 if self.otherwise == "group" else groups.count_P / max(1.0, groups.count_P.sum())
        w_P = own_P * groups.with_values(shut_N.astype(np.float64)).mean_P
        fused = masked(states.first_N(fused_S), groups.mask_N, w_P)
        return replace(fused, tokens=states.split(fused_S), notes=gain.notes(groups.mask_N))


def _rest(groups: Groups) -> tuple[FloatArray, FloatArray]:
    """Return count and sum of the rewards of the batch's other rollouts, (N,)."""
    used_N = groups.mask_N.astype(np.float64)
    value_N = used_N * groups.value_N
    return np.where(groups.mask_N, used_N.sum() - 1.0, 0.0), value_N.sum() - value_N
