"""Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): drop uniform groups, refill out of the budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainables.strategies.batch import BoolArray, Decision, Requests
from trainables.strategies.budget.base import Budget, Outlook, Progress


@dataclass(frozen=True)
class Dynamic(Budget):
    """Groups whose answers are all *equally* correct are dropped (and stay paid for).

    `initial` of the step goes to the first round; as many new prompts as were lost follow, until none is
    missing, the rollout budget is spent or `max_refills` rounds are done. Running out is an outcome, not an
    error: the step then trains on what it kept.
    """

    group_size: int = 16
    initial: float = 0.5
    max_refills: int = 10

    def select(self, outlook: Outlook) -> Requests:
        first = None
        if outlook.wanted is None:
            each = self.group_size + outlook.overhead
            first = max(int(outlook.rollout_budget.total * self.initial + 1e-9), each)
        return outlook.take(outlook.prompts(self.group_size, first), self.group_size)

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
        """Groups the step set out with: the prompts of the first round."""
        batch = progress.batch
        return len(np.unique(batch.prompt_N[batch.round_N == 0]))

    def _refill(self, progress: Progress, drop_P: BoolArray) -> int:
        rollout_budget, batch = progress.rollout_budget, progress.batch
        if rollout_budget.rounds <= 0 or int(batch.round_N.max(initial=0)) >= self.max_refills:
            return 0
        missing = self._target(progress) - int((~drop_P).sum())
        return max(0, min(missing, rollout_budget.rollouts // (self.group_size + progress.overhead)))
