"""Budget `sequential`: one-step look-ahead (V0.5, arXiv 2603.10848, section 3).

D = Delta2 / s2 is the prior's squared error by the test; with D held fixed the fused baseline's error after k
rollouts is mse(k) = D / (k D + 1), in units of s2. One more rollout pays while mse(k) - mse(k + 1) > cost.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from trainables.errors import StrategyError
from trainables.strategies.batch import BoolArray, Decision, FloatArray, IntArray, Requests
from trainables.strategies.budget.base import Budget, Outlook, Progress
from trainables.strategies.budget.spend import spend
from trainables.strategies.fusion.base import Fusion
from trainables.strategies.fusion.tested import PAPER_ALPHA, Tested
from trainables.strategies.members.base import Alpha, GroupSize, Member, Positive, Share


def gain(count_P: FloatArray, error_P: FloatArray) -> FloatArray:
    """Return the predicted fall of the baseline's error by one more rollout, in units of s2.

    `error_P` is D = Delta2 / s2: D^2 / ((k D + 1) ((k + 1) D + 1)).
    """
    return error_P**2 / ((count_P * error_P + 1.0) * ((count_P + 1.0) * error_P + 1.0))


class Sequential(Member, Budget):
    """Start with k_min rollouts of each prompt; draw more where one more is predicted to pay (V0.5)."""

    type: Literal["sequential"] = "sequential"
    k_min: GroupSize = 4
    k_max: GroupSize = 16
    cost: Positive = 1.0 / 256.0
    """Price of one rollout, in units of the worst-case reward variance; 1/256 makes 16 the natural stop."""
    reserve: Share = 0.25
    """Share of the step's rollouts kept for extra draws; the rest is spent on first rounds."""
    draw: Annotated[int, Field(ge=1)] = 1
    """Rollouts an undecided prompt gets per round. More saves rounds and stops less sharply."""
    refill: bool = False
    """True: what is left when all prompts are settled goes to new prompts. False: it stays unspent, and the
    run gets more steps out of the same budget."""
    alpha: Alpha | None = None
    """Level of the stopping rule; null = the fusion's own level where it has one, else the paper's."""

    reads_prior: ClassVar[bool] = True

    @model_validator(mode="after")
    def _cap(self) -> Sequential:
        if self.k_max < self.k_min:
            raise ValueError(
                f"k_max: {self.k_max} is a cap below the group size k_min={self.k_min}; raise k_max to at "
                f"least {self.k_min} or lower k_min"
            )
        return self

    def first_round(self) -> int:
        return self.k_min

    def rounds(self) -> int:
        need = 1 + math.ceil((self.k_max - self.k_min) / self.draw)
        return 2 * need if self.refill else need

    def rule(self, fusion: Fusion | None) -> Tested:
        """Return the test that says how wrong the prior is.

        It is the fusion's own, so that stopping and shrinking agree.
        """
        level, test = (fusion.alpha, fusion.test) if isinstance(fusion, Tested) else (PAPER_ALPHA, "chi2")
        return Tested(alpha=level if self.alpha is None else self.alpha, test=test)

    def select(self, outlook: Outlook) -> Requests:
        return outlook.open(self.k_min, 1.0 - self.reserve)

    def decide(self, progress: Progress) -> Decision:
        rollout_budget = progress.rollout_budget
        if rollout_budget.rounds <= 0 or rollout_budget.rollouts <= 0:
            return Decision()
        gain_P, undecided_P, drawn_P = self._undecided(progress)
        if not undecided_P.any():
            each = self.k_min + progress.overhead
            return Decision(new_prompts=rollout_budget.rollouts // each if self.refill else 0)
        wish_P = np.where(undecided_P, np.minimum(self.draw, self.k_max - drawn_P), 0)
        count_P = spend(np.where(undecided_P, gain_P, -1.0), wish_P, rollout_budget.rollouts)
        more = np.flatnonzero(count_P)
        return Decision(more=Requests.samples(progress.batch.prompt_id_P[more], count_P[more]))

    def shortfall(self, progress: Progress) -> float:
        _, undecided_P, _ = self._undecided(progress)
        return float(undecided_P.mean()) if len(undecided_P) else 0.0

    def _undecided(self, progress: Progress) -> tuple[FloatArray, BoolArray, IntArray]:
        """Return gain, prompts where one more rollout pays under the cap, and samples drawn; all (P,)."""
        if progress.prior_P is None:
            raise StrategyError("strategy.prior: none, but budget 'sequential' tests one; set strategy.prior")
        groups, drawn_P = progress.groups, progress.drawn_P
        error_P = self.rule(progress.fusion).delta2(groups, progress.prior_P) / groups.scale.s2
        gain_P = gain(groups.count_P, error_P)
        undecided_P = (gain_P > self.cost) & (drawn_P < self.k_max) & (groups.count_P > 0)
        return gain_P, np.asarray(undecided_P, np.bool_), drawn_P
