"""Presets that read the prompt's own group, or one greedy rollout."""

from __future__ import annotations

from pydantic import Field

from trainables.strategies.budget.dynamic import Dynamic
from trainables.strategies.budget.fixed import Fixed
from trainables.strategies.fusion.group_mean import GroupMean
from trainables.strategies.fusion.leave_one_out import LeaveOneOut
from trainables.strategies.fusion.prior_only import PriorOnly
from trainables.strategies.members.base import GroupSize, PairSize
from trainables.strategies.normalisers import GroupStd, TokenStd
from trainables.strategies.presets.base import Axes, Preset
from trainables.strategies.priors.greedy import GreedyPrior


class Grpo(Preset):
    """GRPO (arXiv 2402.03300, section 4.1.2): (r - mean) / (std + 1e-6), std with ddof 1 as in verl.

    Departs: sequence or token mean is the shared loss setting; no KL term.
    """

    group_size: PairSize = 16

    def axes(self) -> Axes:
        return {"fusion": GroupMean(), "budget": Fixed(group_size=self.group_size), "normaliser": GroupStd()}


class DrGrpo(Preset):
    """Dr.GRPO (arXiv 2503.20783, section 3.2): r - mean, no division.

    Departs: its constant-length loss is `loss.aggregation: constant_length`, not part of the baseline.
    """

    group_size: PairSize = 16

    def axes(self) -> Axes:
        return {"fusion": GroupMean(), "budget": Fixed(group_size=self.group_size)}


class Rloo(Preset):
    """RLOO (arXiv 2402.14740, section 2.2.2): r - mean of the group's other rollouts."""

    group_size: PairSize = 4

    def axes(self) -> Axes:
        return {"fusion": LeaveOneOut(), "budget": Fixed(group_size=self.group_size)}


class Dapo(Preset):
    """DAPO (arXiv 2503.14476, eq. 8-11): GRPO's advantage on groups with 0 < right < G; refill.

    Departs: a refill draws exactly the missing groups instead of a whole generation batch, is bounded, and
    is paid out of the step's rollout budget; the group filter reads `correct` (as verl does). Clip-higher,
    token mean and overlong shaping are loss settings.
    """

    group_size: PairSize = 16
    initial: float = Field(default=0.5, gt=0, le=1)
    """Share of the step's rollouts in the first round; the rest is for refills."""
    max_refills: int = Field(default=10, ge=0)

    def axes(self) -> Axes:
        return {
            "fusion": GroupMean(),
            "budget": Dynamic(group_size=self.group_size, initial=self.initial, max_refills=self.max_refills),
            "normaliser": GroupStd(),
        }


class ReinforcePp(Preset):
    """REINFORCE++-baseline (arXiv 2501.03262, section 3): r - group mean, whitened over the batch's tokens.

    Over tokens as in verl (`compute_reinforce_plus_plus_baseline_outcome_advantage`).
    """

    group_size: PairSize = 16

    def axes(self) -> Axes:
        return {
            "fusion": GroupMean(),
            "budget": Fixed(group_size=self.group_size),
            "normaliser": TokenStd(),
        }


class Remax(Preset):
    """ReMax (arXiv 2310.10505, algorithm 1): r - r(greedy). The greedy rollout is paid for, not trained."""

    group_size: GroupSize = 1

    def axes(self) -> Axes:
        return {
            "prior": GreedyPrior(),
            "fusion": PriorOnly(),
            "budget": Fixed(group_size=self.group_size),
        }
