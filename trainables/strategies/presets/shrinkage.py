"""Presets whose prior is a running mean, or the step's other prompts."""

from __future__ import annotations

from pydantic import Field

from trainables.strategies.budget.fixed import Fixed
from trainables.strategies.budget.weighted import Weighted
from trainables.strategies.fusion.beta import BetaCounts
from trainables.strategies.fusion.discounted import Discounted
from trainables.strategies.fusion.ebpo import Ebpo
from trainables.strategies.fusion.james_stein import JamesStein
from trainables.strategies.fusion.prior_only import PriorOnly
from trainables.strategies.members.base import GroupSize, Keep, PairSize, Positive
from trainables.strategies.normalisers import BatchStd, BernoulliStd, GroupStd
from trainables.strategies.presets.base import Axes, Preset
from trainables.strategies.priors.global_mean import GlobalPrior
from trainables.strategies.priors.pool import PoolPrior
from trainables.strategies.priors.strata import StrataPrior
from trainables.strategies.priors.tracker import TrackerPrior


class Spo(Preset):
    """SPO (arXiv 2509.13232): per-prompt tracker as baseline, weighted prompts, whitened over the batch.

    D, rho, counts and advantages are those of the authors' recipe (tests/parity/test_spo.py).

    Departs: no offline bootstrap by default (`bootstrap: 8` buys it out of the step's rollouts, and the
    policy's change is measured from it on; the recipe takes none at the first visit after its own); a prompt
    that was never seen starts at the mean of those that were; of several rollouts the first is measured.
    """

    group_size: GroupSize = 1
    floor: Positive = 0.05
    bootstrap: int = Field(default=0, ge=0)

    def axes(self) -> Axes:
        return {
            "prior": TrackerPrior(),
            "fusion": PriorOnly(),
            "budget": Weighted(group_size=self.group_size, floor=self.floor, bootstrap=self.bootstrap),
            "normaliser": BatchStd(center=True),
        }


class Jspo(Preset):
    """James-Stein leave-one-out across the step's prompts (arXiv 2511.03710).

    Departs from the released code (JSPO-Official at 3f8539d) by the paper's text: the others' mean weighs
    (n - 1)/n of the code's weight, and two prompts shrink nothing.
    """

    group_size: PairSize = 4

    def axes(self) -> Axes:
        return {"prior": PoolPrior(), "fusion": JamesStein(), "budget": Fixed(group_size=self.group_size)}


class EbpoPreset(Preset):
    """EBPO (arXiv 2602.05165): group mean shrunk to a running global mean, divided by the group std."""

    group_size: PairSize = 8
    keep: Keep = 0.9

    def axes(self) -> Axes:
        return {
            "prior": GlobalPrior(keep=self.keep),
            "fusion": Ebpo(),
            "budget": Fixed(group_size=self.group_size),
            "normaliser": GroupStd(),
        }


class BetaMix(Preset):
    """Beta pseudo-counts on the strata prior: a simple, strong rival of the tested fusion (unpublished)."""

    group_size: GroupSize = 4
    n0: Positive = 4.0
    keep: Keep = 0.9

    def axes(self) -> Axes:
        return {
            "prior": StrataPrior(keep=self.keep),
            "fusion": BetaCounts(n0=self.n0),
            "budget": Fixed(group_size=self.group_size),
        }


class GlobalMean(Preset):
    """Control: r - running mean of all prompts' rewards, one rollout per prompt (the project's own).

    What a baseline gains that tells prompts apart is measured against it.
    """

    group_size: GroupSize = 1
    keep: Keep = 0.9

    def axes(self) -> Axes:
        return {
            "prior": GlobalPrior(keep=self.keep),
            "fusion": PriorOnly(),
            "budget": Fixed(group_size=self.group_size),
        }


class Dbb(Preset):
    """DBB (arXiv 2603.18444): (r - b) / sqrt(b (1 - b)), b = a' / (a' + c') of a prompt's discounted counts.

    At each visit a' = keep a + s and c' = keep c + k - s, with s successes in k rollouts. Read: the paper's
    abstract, which has no equation; these are trimtab's reading of it and may differ from the paper's.

    Departs: the counts start as Beta(1/2, 1/2), which the first visit does not discount; a prompt that was
    never seen leans on the mean of those that were, by `keep` of one rollout; the default of `keep` is
    trimtab's.
    """

    group_size: GroupSize = 8
    keep: Keep = 0.9
    """Share of a prompt's old counts that survives a visit (the paper's lambda)."""

    def axes(self) -> Axes:
        return {
            # `mass` pseudo-counts at the mean (s + 1/2) / (k + 1): with k + 1, they are the counts plus 1/2.
            "prior": TrackerPrior(mass=self.group_size + 1.0, keep_min=self.keep, keep_max=self.keep),
            "fusion": Discounted(keep=self.keep),
            "budget": Fixed(group_size=self.group_size),
            "normaliser": BernoulliStd(),
        }
