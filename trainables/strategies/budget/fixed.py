"""The same number of rollouts for every prompt."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.strategies.batch import Requests
from trainables.strategies.budget.base import Budget, Outlook


@dataclass(frozen=True)
class Fixed(Budget):
    """`rollouts_per_step // group_size` prompts; a remainder smaller than a group stays unspent."""

    group_size: int = 16

    def select(self, outlook: Outlook) -> Requests:
        return outlook.take(outlook.prompts(self.group_size), self.group_size)
