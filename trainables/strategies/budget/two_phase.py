"""Rounds until a group holds enough right and enough wrong answers (Reinforce-Ada, arXiv 2510.04996)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainables.strategies.batch import BoolArray, Decision, IntArray, Requests
from trainables.strategies.budget.base import Budget, Outlook, Progress
from trainables.strategies.budget.sequential import spend


@dataclass(frozen=True)
class TwoPhase(Budget):
    """First rounds out of (1 - reserve) of the step; then prompts that lack answers, least drawn first.

    An answer is right above the middle of the reward range. Departs from Reinforce-Ada: all rollouts are
    trained, none is discarded to balance the group. Stopping depends on the rewards, so a plain group mean
    is biased under it (docs/strategy-tables.md).
    """

    group_size: int = 4
    k_max: int = 16
    right: int = 1
    wrong: int = 1
    reserve: float = 0.5

    def select(self, outlook: Outlook) -> Requests:
        first = None
        if outlook.wanted is None:
            each = self.group_size + outlook.overhead
            first = max(int(outlook.rollout_budget.total * (1.0 - self.reserve) + 1e-9), each)
        return outlook.take(outlook.prompts(self.group_size, first), self.group_size)

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
