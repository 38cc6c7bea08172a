"""Budget `fixed`: the same number of rollouts for every prompt."""

from __future__ import annotations

from typing import Literal

from trainables.strategies.batch import Requests
from trainables.strategies.budget.base import Budget, Outlook
from trainables.strategies.members.base import GroupSize, Member


class Fixed(Member, Budget):
    """`rollouts_per_step // group_size` prompts of `group_size` rollouts each.

    A remainder smaller than a group stays unspent.
    """

    type: Literal["fixed"] = "fixed"
    group_size: GroupSize = 16

    def first_round(self) -> int:
        return self.group_size

    def select(self, outlook: Outlook) -> Requests:
        return outlook.take(outlook.prompts(self.group_size), self.group_size)
