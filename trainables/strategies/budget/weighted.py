"""Budget `weighted`: prompts sampled by how undecided the prior is (SPO, arXiv 2509.13232, section 3.3)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from trainables.strategies.batch import Kind, Requests
from trainables.strategies.budget.base import Budget, Outlook
from trainables.strategies.members.base import GroupSize, Member, Positive


class Weighted(Member, Budget):
    """Prompts sampled by how undecided the prior is: weight sqrt(v (1 - v)) + floor (SPO).

    v is the predicted pass rate. Prompts are drawn without replacement.
    """

    type: Literal["weighted"] = "weighted"
    group_size: GroupSize = 1
    floor: Positive = 0.05
    bootstrap: Annotated[int, Field(ge=0)] = 0
    """Untrained rollouts that a prompt gets when it is first met, to start its tracker (SPO uses 8). They
    are paid for, and nothing else is drawn of the prompt in this step."""

    foresight: ClassVar[bool] = True

    def first_round(self) -> int:
        return self.group_size

    def least(self) -> int:
        return max(self.group_size, self.bootstrap)

    def select(self, outlook: Outlook) -> Requests:
        rate_C = outlook.rate_C
        weight_C = np.sqrt(rate_C * (1.0 - rate_C)) + self.floor
        # Smallest of Exp(1) / weight: sampling without replacement in one pass (Efraimidis-Spirakis).
        order = np.argsort(outlook.pool.rng.exponential(size=len(weight_C)) / weight_C, kind="stable")
        fresh_C = outlook.estimate.fresh_P if outlook.estimate is not None else None
        starts_C = np.zeros(len(order), np.bool_) if fresh_C is None or not self.bootstrap else fresh_C[order]
        count_C = np.where(starts_C, self.bootstrap, self.group_size)
        fits_C = np.cumsum(count_C + outlook.overhead) <= outlook.rollout_budget.rollouts
        if outlook.wanted is not None:
            fits_C &= np.arange(len(order)) < outlook.wanted
        taken = int(fits_C.sum())
        return Requests(
            prompt_R=outlook.pool.prompt_C[order[:taken]],
            count_R=count_C[:taken].astype(np.int64),
            kind_R=np.full(taken, int(Kind.SAMPLE), np.int64),
            trainable_R=np.asarray(~starts_C[:taken]),
        )
