"""The members of each axis, by the `type` a user writes. A new member is one file and one line here."""

from __future__ import annotations

from trainables.strategies.budget.adaptive.cero import Cero
from trainables.strategies.budget.adaptive.hora import Hora
from trainables.strategies.budget.adaptive.sara import Sara
from trainables.strategies.budget.allocated import Allocated
from trainables.strategies.budget.dynamic import Dynamic
from trainables.strategies.budget.fixed import Fixed
from trainables.strategies.budget.sequential import Sequential
from trainables.strategies.budget.two_phase import TwoPhase
from trainables.strategies.budget.weighted import Weighted
from trainables.strategies.estimators.gae import Gae
from trainables.strategies.estimators.monte_carlo import MonteCarlo
from trainables.strategies.fusion.beta import BetaCounts
from trainables.strategies.fusion.discounted import Discounted
from trainables.strategies.fusion.ebpo import Ebpo
from trainables.strategies.fusion.group_mean import GroupMean
from trainables.strategies.fusion.james_stein import JamesStein
from trainables.strategies.fusion.leave_one_out import LeaveOneOut
from trainables.strategies.fusion.length_weighted import LengthWeighted
from trainables.strategies.fusion.prior_only import PriorOnly
from trainables.strategies.fusion.tested import Tested
from trainables.strategies.members.base import Custom, Member
from trainables.strategies.normalisers import BatchStd, BernoulliStd, GroupStd, NoNormaliser, TokenStd
from trainables.strategies.priors.context import ContextPrior
from trainables.strategies.priors.critic import CriticPrior
from trainables.strategies.priors.global_mean import GlobalPrior
from trainables.strategies.priors.greedy import GreedyPrior
from trainables.strategies.priors.none import NoPrior
from trainables.strategies.priors.pool import PoolPrior
from trainables.strategies.priors.probe import ProbePrior
from trainables.strategies.priors.strata import StrataPrior
from trainables.strategies.priors.tracker import TrackerPrior

PRIORS: dict[str, type[Member]] = {
    "none": NoPrior,
    "strata": StrataPrior,
    "global": GlobalPrior,
    "tracker": TrackerPrior,
    "pool": PoolPrior,
    "greedy": GreedyPrior,
    "context": ContextPrior,
    "probe": ProbePrior,
    "critic": CriticPrior,
    "custom": Custom,
}
FUSIONS: dict[str, type[Member]] = {
    "group_mean": GroupMean,
    "leave_one_out": LeaveOneOut,
    "prior_only": PriorOnly,
    "tested": Tested,
    "beta": BetaCounts,
    "discounted": Discounted,
    "james_stein": JamesStein,
    "ebpo": Ebpo,
    "length_weighted": LengthWeighted,
    "custom": Custom,
}
BUDGETS: dict[str, type[Member]] = {
    "fixed": Fixed,
    "sequential": Sequential,
    "dynamic": Dynamic,
    "allocated": Allocated,
    "two_phase": TwoPhase,
    "weighted": Weighted,
    "hora": Hora,
    "cero": Cero,
    "sara": Sara,
    "custom": Custom,
}
ESTIMATORS: dict[str, type[Member]] = {"monte_carlo": MonteCarlo, "gae": Gae}
NORMALISERS: dict[str, type[Member]] = {
    "none": NoNormaliser,
    "group_std": GroupStd,
    "batch_std": BatchStd,
    "token_std": TokenStd,
    "bernoulli_std": BernoulliStd,
    "custom": Custom,
}
TABLES = {
    "prior": PRIORS,
    "fusion": FUSIONS,
    "budget": BUDGETS,
    "estimator": ESTIMATORS,
    "normaliser": NORMALISERS,
}
"""Axis -> its members."""
