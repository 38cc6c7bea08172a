"""Budget `hora`: rollouts where one more is likely to be the first hit (HORA, arXiv 2605.07114).

The equations are in `hits.py`. Sizes depend on the outcomes of the probes, which are trained with the rest: a
baseline that reads the group is biased (docs/strategy-tables.md). What the caps leave stays unspent.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import model_validator

from trainables.strategies.batch import Decision, Requests
from trainables.strategies.budget.adaptive.hits import allocate_hits
from trainables.strategies.budget.base import Budget, Outlook, Progress
from trainables.strategies.members.base import Member, PairSize


class Hora(Member, Budget):
    """Probe all prompts, then spend by hit utility (HORA). Read: the abstract; probes and cap are ours."""

    type: Literal["hora"] = "hora"
    group_size: PairSize = 16
    """Mean rollouts per prompt: decides how many prompts share the step."""
    probes: PairSize = 4
    high: PairSize = 64
    """Most rollouts of one prompt."""

    @model_validator(mode="after")
    def _bounds(self) -> Hora:
        if not self.probes <= self.group_size <= self.high:
            raise ValueError(
                f"group_size: {self.group_size} is outside [probes={self.probes}, high={self.high}]; a step "
                f"cannot be spent that way: move group_size or the bounds"
            )
        return self

    def first_round(self) -> int:
        return self.probes

    def least(self) -> int:
        return self.group_size

    def rounds(self) -> int:
        return 2

    def select(self, outlook: Outlook) -> Requests:
        return outlook.take(outlook.prompts(self.group_size), self.probes)

    def decide(self, progress: Progress) -> Decision:
        groups, batch = progress.groups, progress.batch
        room_P = np.where(batch.dropped_P, 0, np.maximum(self.high - progress.drawn_P, 0))
        cap = progress.rollout_budget.rollouts if progress.rollout_budget.rounds > 0 else 0
        right_P = groups.scale.unit(groups.mean_P) * groups.count_P
        count_P = allocate_hits(right_P, groups.count_P - right_P, room_P, cap)
        more = np.flatnonzero(count_P)
        return Decision(more=Requests.samples(batch.prompt_id_P[more], count_P[more]) if len(more) else None)
