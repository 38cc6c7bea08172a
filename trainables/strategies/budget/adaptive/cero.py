"""Budget `cero`: a price per rollout and one per prompt, learned over visits (CERO, arXiv 2606.05606).

A rollout of a prompt is worth v = E[p (1 - p)] = a b / ((a + b) (a + b + 1)) under its Beta(a, b), uniform at
first. The x rollouts of T visits are worth f(x) = v t (1 - exp(-x / t)), t = T group_size. The concave dual
f(x) = min_mu (mu x - f*(mu)) parts the visits: at price lam of a rollout, one takes the n that maximises
(mu - lam) n. mu and lam follow by projected online gradient descent (`duals.py`), from which T drops out.

A size depends on earlier visits only and never on this one's rewards: it biases no baseline.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from trainables.strategies.batch import Requests
from trainables.strategies.budget.adaptive.duals import Duals
from trainables.strategies.budget.base import Budget, Outlook
from trainables.strategies.members.base import Member, PairSize, Positive


class Cero(Member, Budget):
    """Rollouts by each prompt's earlier outcomes and the price of a rollout, both learned (CERO).

    Read: the paper's abstract and summaries, which hold no equation. The saturating utility, start, step
    sizes, the bounds per visit and the band in which a prompt is indifferent are trimtab's.
    """

    type: Literal["cero"] = "cero"
    group_size: PairSize = 16
    """Mean rollouts per prompt and visit, which the price keeps: decides how many prompts share the step."""
    low: PairSize = 4
    high: PairSize = 32
    rate: Positive = 0.25
    """Step of the duals: `high` rollouts off the plan move one by this share of 1/4, the largest worth."""

    @model_validator(mode="after")
    def _bounds(self) -> Cero:
        if not self.low <= self.group_size <= self.high:
            raise ValueError(
                f"group_size: {self.group_size} is outside [low={self.low}, high={self.high}]; a step cannot "
                f"be spent that way: move group_size or the bounds"
            )
        return self

    def running(self, axis: str, kind: Any) -> Duals:
        """Return the budget that runs: this one has state."""
        return Duals(self)

    def first_round(self) -> int:
        return self.low

    def least(self) -> int:
        return self.group_size

    def select(self, outlook: Outlook) -> Requests:
        return Duals(self).select(outlook)
