"""Budget `two_phase`: rounds until a group holds enough right and wrong answers.

After Reinforce-Ada (arXiv 2510.04996). Departs: all rollouts are trained, none is discarded to balance the
group. Stopping depends on the rewards, so a plain group mean is biased under it (docs/strategy-tables.md).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from trainables.strategies.batch import BoolArray, Decision, IntArray, Requests
from trainables.strategies.budget.base import Budget, Outlook, Progress
from trainables.strategies.budget.spend import spend
from trainables.strategies.members.base import Member, PairSize, Share


class TwoPhase(Member, Budget):
    """Sample in rounds until a group holds enough right and enough wrong answers (Reinforce-Ada style).

    The least drawn prompts come first. An answer is right above the middle of the reward range.
    """

    type: Literal["two_phase"] = "two_phase"
    group_size: PairSize = 4
    """Rollouts of one prompt in one round."""
    k_max: PairSize = 16
    right: Annotated[int, Field(ge=0)] = 1
    wrong: Annotated[int, Field(ge=0)] = 1
    reserve: Share = 0.5
    """Share of the step's rollouts kept for the later rounds."""

    @model_validator(mode="after")
    def _cap(self) -> TwoPhase:
        if self.k_max < self.group_size:
            raise ValueError(
                f"k_max: {self.k_max} is a cap below the group size group_size={self.group_size}; raise k_max"
            )
        if self.right + self.wrong > self.k_max:
            raise ValueError(
                f"right + wrong: {self.right + self.wrong} answers never fit k_max={self.k_max}; raise k_max"
            )
        return self

    def first_round(self) -> int:
        return self.group_size

    def rounds(self) -> int:
        return 1 + math.ceil((self.k_max - self.group_size) / self.group_size)

    def select(self, outlook: Outlook) -> Requests:
        return outlook.open(self.group_size, 1.0 - self.reserve)

    def decide(self, progress: Progress) -> Decision:
        if progress.rollout_budget.rounds <= 0 or progress.rollout_budget.rollouts <= 0:
            return Decision()
        open_P, drawn_P = self._open(progress)
        wish_P = np.where(open_P, np.minimum(self.group_size, self.k_max - drawn_P), 0)
        count_P = spend(-drawn_P.astype(np.float64), wish_P, progress.rollout_budget.rollouts)
        more = np.flatnonzero(count_P)
        if not len(more):
            return Decision()
        return Decision(more=Requests.samples(progress.batch.prompt_id_P[more], count_P[more]))

    def shortfall(self, progress: Progress) -> float:
        open_P, _ = self._open(progress)
        return float(open_P.mean()) if len(open_P) else 0.0

    def _open(self, progress: Progress) -> tuple[BoolArray, IntArray]:
        groups, drawn_P = progress.groups, progress.drawn_P
        middle = (groups.scale.low + groups.scale.high) / 2.0
        right_P = groups.total((groups.value_N > middle).astype(np.float64))
        wrong_P = groups.count_P - right_P
        open_P = ((right_P < self.right) | (wrong_P < self.wrong)) & (drawn_P < self.k_max)
        return np.asarray(open_P, np.bool_), drawn_P
