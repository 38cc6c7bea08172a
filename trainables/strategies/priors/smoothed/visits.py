"""What past steps showed of each prompt: a row for every visit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainables.strategies.batch import Batch, BoolArray, FloatArray, IntArray
from trainables.strategies.groups import Groups, first_round_N
from trainables.strategies.scale import Scale, verified_N


@dataclass
class Visits:
    """V visits, oldest first. Rewards are in [0, 1] units."""

    row_4V: FloatArray = field(default_factory=lambda: np.zeros((4, 0)))
    """Prompt id, step (from 1), rollouts, their reward sum."""
    steps: int = 0
    """Steps observed."""

    @property
    def age_V(self) -> FloatArray:
        """Return the steps since each visit as the next step sees them; 1 for the last step's."""
        return np.asarray(self.steps + 1.0 - self.row_4V[1])

    def add(self, batch: Batch, scale: Scale) -> None:
        """Add the verified rollouts of a step: those of each prompt's first round."""
        used_N = first_round_N(batch, verified_N(batch))
        unit_N = np.where(used_N, scale.unit(batch.correct_N), 0.0)
        groups = Groups(batch.prompt_N, unit_N, batch.prompts, used_N)
        seen = np.flatnonzero(groups.count_P > 0)
        self.steps += 1
        step_V = np.full(len(seen), float(self.steps))
        id_V = batch.prompt_id_P[seen].astype(np.float64)
        new_4V = np.stack([id_V, step_V, groups.count_P[seen], groups.sum_P[seen]])
        self.row_4V = np.concatenate([self.row_4V, new_4V], axis=1)

    def keep(self, kept_V: BoolArray) -> None:
        """Forget the other visits."""
        self.row_4V = self.row_4V[:, kept_V]

    def sums(self, weight_V: FloatArray, prompt_C: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return weighted rollouts and reward sums of the given prompts; both (C,)."""
        known_M, row_V = np.unique(self.row_4V[0], return_inverse=True)
        # One more column, of zeros, for the prompts without a visit.
        count_M, sum_M = (
            np.bincount(row_V, weight_V * self.row_4V[line], len(known_M) + 1).astype(np.float64)
            for line in (2, 3)
        )
        row_C = np.searchsorted(known_M, prompt_C)
        met_C = np.append(known_M, np.nan)[row_C] == prompt_C
        row_C = np.where(met_C, row_C, len(known_M))
        return count_M[row_C], sum_M[row_C]

    def state_dict(self) -> dict[str, Any]:
        """Return the rows and the number of steps."""
        return {"row_4V": self.row_4V.copy(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly what `state_dict` returned."""
        self.row_4V = np.asarray(state["row_4V"], np.float64).reshape(4, -1).copy()
        self.steps = int(state["steps"])
