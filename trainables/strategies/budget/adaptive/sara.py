"""Budget `sara`: commit to a prompt or abandon it by a sequential test (SARA, arXiv 2607.26253).

Two of Wald's tests with the log likelihood ratio of s hits and f misses,

    s log(worth / hopeless) + f log((1 - worth) / (1 - hopeless)),

count right answers as hits, and then wrong ones. A prompt is committed to when both accept `worth`. It is
abandoned when one accepts `hopeless`: the prompt is too hard, or too easy.

Which groups are trained depends on their outcomes. Under leave-one-out that lengthens the gradient by some
10 %, unevenly; with the abandoned probes trained it is 3 % short (docs/strategy-tables.md). Fresh prompts
start while their groups can be completed. What is left then stays unspent, and the run gets more steps.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from trainables.strategies.batch import BoolArray, Decision, IntArray, Requests
from trainables.strategies.budget.adaptive.sprt import log_ratio, thresholds
from trainables.strategies.budget.base import Budget, Outlook, Progress
from trainables.strategies.budget.spend import spend
from trainables.strategies.members.base import Alpha, Member, PairSize

Rate = Annotated[float, Field(gt=0, le=0.5)]


class Sara(Member, Budget):
    """Probe a prompt until a sequential test commits to it or abandons it; fresh prompts get what is freed.

    Read: no text, only that a sequential test decides after 4 probes and that fresh prompts get the rest
    (second hand). Hypotheses, levels, the second test and further probes of the undecided are trimtab's.
    """

    type: Literal["sara"] = "sara"
    group_size: PairSize = 16
    """Rollouts of a prompt that is committed to, its probes included."""
    probes: PairSize = 4
    """Rollouts before the first test, and of an undecided prompt between two tests."""
    hopeless: Rate = 0.05
    """Share of the rarer answer that a prompt is not worth its rollouts at."""
    worth: Rate = 0.3
    alpha: Alpha = 0.05
    """Chance wanted for committing to a hopeless prompt."""
    beta: Alpha = 0.3
    """Chance wanted for abandoning a prompt that is worth it. Below .24 four wrong answers do not suffice."""
    train_abandoned: bool = False
    """True: the probes of abandoned prompts are trained. False: they stay paid for and are dropped."""

    @model_validator(mode="after")
    def _bounds(self) -> Sara:
        if self.probes > self.group_size:
            raise ValueError(f"probes: {self.probes} exceeds group_size={self.group_size}; lower probes")
        if self.hopeless >= self.worth:
            raise ValueError(f"hopeless: {self.hopeless} is not below worth={self.worth}; lower hopeless")
        if self.alpha + self.beta >= 1.0:
            raise ValueError(f"alpha + beta: {self.alpha + self.beta} is not below 1; lower alpha or beta")
        return self

    def first_round(self) -> int:
        return self.probes

    def least(self) -> int:
        return self.group_size

    def rounds(self) -> int:
        """Return rounds for four prompts tested one after another, each as often as it can be."""
        return 4 * math.ceil(self.group_size / self.probes)

    def select(self, outlook: Outlook) -> Requests:
        return outlook.take(outlook.prompts(self.group_size), self.probes)

    def decide(self, progress: Progress) -> Decision:
        left, (commit_P, abandon_P, need_P) = progress.rollout_budget, self._judged(progress)
        drop_P = progress.batch.dropped_P | (abandon_P & (not self.train_abandoned))
        if left.rounds <= 0 or left.rollouts <= 0:
            return Decision(drop_P=drop_P)
        # In the last round the undecided are completed: a test that follows could free nothing.
        whole_P = commit_P | (left.rounds == 1)
        wish_P = np.where(whole_P, need_P, np.minimum(self.probes, need_P))
        count_P = spend(commit_P.astype(np.float64), wish_P, left.rollouts)
        more = np.flatnonzero(count_P)
        # Every live prompt keeps the rollouts that complete its group: the rest is what was freed.
        free = max(0, left.rollouts - int(need_P.sum()))
        fresh = 0 if left.rounds == 1 else free // (self.group_size + progress.overhead)
        asked = Requests.samples(progress.batch.prompt_id_P[more], count_P[more]) if len(more) else None
        return Decision(more=asked, new_prompts=fresh, drop_P=drop_P)

    def shortfall(self, progress: Progress) -> float:
        need_P = self._judged(progress)[2]
        return float((need_P > 0).mean()) if len(need_P) else 0.0

    def _judged(self, progress: Progress) -> tuple[BoolArray, BoolArray, IntArray]:
        """Return prompts committed to, prompts abandoned, rollouts that complete a live group; all (P,).

        A complete group is not tested again.
        """
        groups = progress.groups
        need_P = np.maximum(self.group_size - progress.drawn_P, 0)
        need_P = np.where(progress.batch.dropped_P, 0, need_P)
        right_P = groups.scale.unit(groups.mean_P) * groups.count_P
        wrong_P = groups.count_P - right_P
        lower, upper = thresholds(self.alpha, self.beta)
        hard_P = log_ratio(right_P, wrong_P, self.hopeless, self.worth)
        easy_P = log_ratio(wrong_P, right_P, self.hopeless, self.worth)
        worst_P = np.minimum(hard_P, easy_P)
        abandon_P = np.asarray((worst_P <= lower) & (need_P > 0), np.bool_)
        commit_P = np.asarray((worst_P >= upper) & (need_P > 0), np.bool_)
        return commit_P, abandon_P, np.where(abandon_P, 0, need_P)
