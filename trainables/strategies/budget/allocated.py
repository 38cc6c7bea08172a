"""Budget `allocated`: spend by predicted pass rate before sampling (V0, arXiv 2602.03584, section 4.3)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from trainables.strategies.batch import Requests
from trainables.strategies.budget.allocation import allocate, gained
from trainables.strategies.budget.base import Budget, Outlook, Progress
from trainables.strategies.members.base import GroupSize, Member, PairSize


class Allocated(Member, Budget):
    """Spend by predicted pass rate before sampling (V0, arXiv 2602.03584)."""

    type: Literal["allocated"] = "allocated"
    group_size: GroupSize = 16
    """Mean rollouts per prompt: decides how many prompts share the step."""
    low: PairSize = 2
    high: PairSize = 128
    method: Literal["greedy", "lagrangian", "exact"] = "greedy"

    reads_prior: ClassVar[bool] = True
    foresight: ClassVar[bool] = True
    whole_pool: ClassVar[bool] = False

    @model_validator(mode="after")
    def _bounds(self) -> Allocated:
        if not self.low <= self.group_size <= self.high:
            raise ValueError(
                f"group_size: {self.group_size} is outside [low={self.low}, high={self.high}]; a step cannot "
                f"be spent that way: move group_size or the bounds"
            )
        return self

    def first_round(self) -> int:
        return self.low

    def select(self, outlook: Outlook) -> Requests:
        prompts = outlook.prompts(self.group_size)
        if prompts == 0:
            return outlook.take(0, 0)
        cap = outlook.rollout_budget.rollouts if outlook.wanted is None else prompts * self.group_size
        cap -= prompts * outlook.overhead
        count_P = allocate(outlook.rate_C[:prompts], cap, self.low, self.high, self.method)
        return Requests.samples(outlook.pool.prompt_C[:prompts], count_P)

    def notes(self, progress: Progress) -> dict[str, float]:
        """Return the utility per rollout, predicted and realised."""
        return {} if progress.prior_P is None else gained(progress.groups, progress.prior_P)
