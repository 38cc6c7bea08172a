"""Budget `dynamic`: drop uniform groups, refill out of the budget (DAPO, arXiv 2503.14476, section 3.2)."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from trainables.strategies.batch import BoolArray, Decision, Requests
from trainables.strategies.budget.base import Budget, Outlook, Progress
from trainables.strategies.members.base import Member, PairSize


class Dynamic(Member, Budget):
    """Dynamic sampling (DAPO): drop groups whose answers are all equally correct, refill from the budget.

    Dropped groups stay paid for. Running out is an outcome, not an error: the step trains on what it kept.
    """

    type: Literal["dynamic"] = "dynamic"
    group_size: PairSize = 16
    initial: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the step's rollouts that the first round spends; the rest is there for refills."""
    max_refills: Annotated[int, Field(ge=0)] = 10

    def first_round(self) -> int:
        return self.group_size

    def rounds(self) -> int:
        return 1 + self.max_refills

    def select(self, outlook: Outlook) -> Requests:
        return outlook.open(self.group_size, self.initial)

    def decide(self, progress: Progress) -> Decision:
        drop_P = self._uniform(progress)
        return Decision(new_prompts=self._refill(progress, drop_P), drop_P=drop_P)

    def shortfall(self, progress: Progress) -> float:
        target = self._target(progress)
        kept = int((~self._uniform(progress)).sum())
        return max(target - kept, 0) / target if target else 0.0

    def _uniform(self, progress: Progress) -> BoolArray:
        return np.asarray(progress.groups.uniform_P | progress.batch.dropped_P, np.bool_)

    def _target(self, progress: Progress) -> int:
        """Return the groups the step set out with: the prompts of the first round."""
        batch = progress.batch
        return len(np.unique(batch.prompt_N[batch.round_N == 0]))

    def _refill(self, progress: Progress, drop_P: BoolArray) -> int:
        rollout_budget, batch = progress.rollout_budget, progress.batch
        if rollout_budget.rounds <= 0 or int(batch.round_N.max(initial=0)) >= self.max_refills:
            return 0
        missing = self._target(progress) - int((~drop_P).sum())
        return max(0, min(missing, rollout_budget.rollouts // (self.group_size + progress.overhead)))
