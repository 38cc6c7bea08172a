"""Explained variance of a step's values, with every rollout left out in turn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainables.strategies.batch import BoolArray, FloatArray
from trainables.strategies.fusion.judged.states import States
from trainables.strategies.groups import Groups

ROUNDING = 1e-9
"""An explained variance up to this is zero."""


@dataclass(frozen=True)
class Explained:
    """EV of the other rollouts' states, (N,), and of all; NaN where the rewards do not vary."""

    others_N: FloatArray
    whole: float

    @property
    def open_N(self) -> BoolArray:
        """Return where the value may be the baseline. NaN is not above the threshold."""
        return np.asarray(self.others_N > ROUNDING)

    def notes(self, used_N: BoolArray) -> dict[str, float]:
        """Return scalars for the log: the share of open gates, and the whole step's EV if it has one."""
        notes = {"gate_open": float(self.open_N[used_N].mean())} if used_N.any() else {}
        return notes | ({"explained_variance": self.whole} if np.isfinite(self.whole) else {})


def explained(groups: Groups, states: States) -> Explained:
    """Return 1 - Var(r - V) / Var(r) over states; a rollout weighs as much as it has states."""
    reward_S = groups.value_N[states.rollout_S]
    count_N = states.total_N(np.ones(len(reward_S)))
    left, whole = np.maximum(count_N.sum() - count_N, 1.0), max(1.0, float(count_N.sum()))
    others, total = [], []
    for value_S in (reward_S - states.value_S, reward_S):
        # Centred first: the difference of two large sums would lose a small spread.
        sum_N = states.total_N(value_S)
        centred_S = np.where(states.used_S, value_S - sum_N.sum() / whole, 0.0)
        first_N, square_N = states.total_N(centred_S), states.total_N(centred_S**2)
        others.append((square_N.sum() - square_N) / left - ((first_N.sum() - first_N) / left) ** 2)
        total.append(float(square_N.sum()) / whole)
    # Equal rewards may leave a rounding error, which is no variance.
    varies_N = others[1] > ROUNDING * groups.scale.s2
    others_N = np.divide(others[0], others[1], out=np.full(len(left), np.nan), where=varies_N)
    return Explained(1.0 - others_N, 1.0 - total[0] / total[1] if total[1] > 0 else float("nan"))
