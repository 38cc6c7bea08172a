"""Sequential sampling with one-step look-ahead (V0.5, arXiv 2603.10848, section 3).

D = Delta2 / s2 is the prior's squared error by the test; with D held fixed the fused baseline's error after k
rollouts is mse(k) = D / (k D + 1), in units of s2. One more rollout pays while mse(k) - mse(k + 1) > cost.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from trainables.errors import StrategyError
from trainables.strategies.axes import PAPER_ALPHA
from trainables.strategies.batch import BoolArray, Decision, FloatArray, IntArray, Requests
from trainables.strategies.budget.base import Budget, Outlook, Progress
from trainables.strategies.fusion.tested import Tested


def gain(count_P: FloatArray, error_P: FloatArray) -> FloatArray:
    """Predicted fall of the baseline's error by one more rollout, in units of s2.

    `error_P` is D = Delta2 / s2: D^2 / ((k D + 1) ((k + 1) D + 1)).
    """
    return error_P**2 / ((count_P * error_P + 1.0) * ((count_P + 1.0) * error_P + 1.0))


def spend(gain_P: FloatArray, wish_P: IntArray, cap: int) -> IntArray:
    """Split `cap` rollouts over wishes, largest gain first (ties: earlier prompt first); (P,) counts."""
    if cap < 0:
        raise StrategyError(f"cap: {cap} rollouts is negative; a step's rollout budget ends at 0")
    order = np.argsort(-gain_P, kind="stable")
    before = np.cumsum(wish_P[order]) - wish_P[order]
    count_P = np.zeros_like(wish_P)
    count_P[order] = np.minimum(np.maximum(cap - before, 0), wish_P[order])
    return count_P


@dataclass(frozen=True)
class Sequential(Budget):
    """First rounds of `k_min` out of (1 - reserve) of the step, extras out of what is left.

    A step too small for one first round under the reserve still takes one prompt. When every prompt is
    settled the rest stays unspent, unless `refill` turns it into new prompts.
    """

    k_min: int = 4
    k_max: int = 16
    cost: float = 1.0 / 256.0
    reserve: float = 0.25
    draw: int = 1
    refill: bool = False
    alpha: float | None = None
    rule: Tested = field(default_factory=Tested)
    """The test that says how wrong the prior is; `build` passes the fusion's own."""

    reads_prior = True

    def __post_init__(self) -> None:
        if self.k_max < self.k_min:
            raise StrategyError(f"budget.k_max: {self.k_max} is below k_min={self.k_min}; raise k_max")
        level = PAPER_ALPHA if self.alpha is None else self.alpha
        if self.alpha is not None and self.rule.alpha != level:
            object.__setattr__(self, "rule", Tested(alpha=level, test=self.rule.test))

    def select(self, outlook: Outlook) -> Requests:
        first = None
        if outlook.wanted is None:
            each = self.k_min + outlook.overhead
            # 1e-9: (1 - 0.9) * 160 must be 16, not 15.99...
            first = max(int(outlook.rollout_budget.total * (1.0 - self.reserve) + 1e-9), each)
        return outlook.take(outlook.prompts(self.k_min, first), self.k_min)

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
        """Gain, prompts where one more rollout still pays under the cap, and samples drawn; all (P,)."""
        if progress.prior_P is None:
            raise StrategyError("strategy.prior: none, but budget 'sequential' tests one; set strategy.prior")
        groups, drawn_P = progress.groups, progress.drawn_P
        error_P = self.rule.delta2(groups, progress.prior_P) / groups.scale.s2
        gain_P = gain(groups.count_P, error_P)
        undecided_P = (gain_P > self.cost) & (drawn_P < self.k_max) & (groups.count_P > 0)
        return gain_P, np.asarray(undecided_P, np.bool_), drawn_P
