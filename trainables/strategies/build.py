"""From a `StrategyConfig` to a running strategy: explicit tables, one line per member."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from trainables.errors import StrategyError
from trainables.strategies import axes
from trainables.strategies.budget.allocated import Allocated
from trainables.strategies.budget.base import Budget
from trainables.strategies.budget.dynamic import Dynamic
from trainables.strategies.budget.fixed import Fixed
from trainables.strategies.budget.sequential import Sequential
from trainables.strategies.budget.two_phase import TwoPhase
from trainables.strategies.budget.weighted import Weighted
from trainables.strategies.composed import Composed
from trainables.strategies.config import StrategyConfig
from trainables.strategies.estimators import Estimator, Gae, MonteCarlo
from trainables.strategies.fusion.base import Fusion
from trainables.strategies.fusion.group import GroupMean, LeaveOneOut, LengthWeighted
from trainables.strategies.fusion.prior_only import PriorOnly
from trainables.strategies.fusion.shrinkage import BetaCounts, Ebpo, JamesStein
from trainables.strategies.fusion.tested import Tested
from trainables.strategies.learned import OWN_STATES
from trainables.strategies.normalisers import BatchStd, GroupStd, NoNormaliser, Normaliser
from trainables.strategies.priors.base import Prior
from trainables.strategies.priors.context import ContextPrior
from trainables.strategies.priors.critic import CriticPrior
from trainables.strategies.priors.greedy import GreedyPrior
from trainables.strategies.priors.none import NoPrior
from trainables.strategies.priors.pool import PoolPrior
from trainables.strategies.priors.probe import ProbePrior
from trainables.strategies.priors.strata import GlobalPrior, StrataPrior
from trainables.strategies.priors.tracker import TrackerPrior
from trainables.strategies.protocol import Strategy
from trainables.strategies.scale import Scale
from trainables.strategies.warmup import Warmup

T = TypeVar("T")

PRIORS: dict[str, type[Prior]] = {
    "none": NoPrior,
    "strata": StrataPrior,
    "global": GlobalPrior,
    "tracker": TrackerPrior,
    "pool": PoolPrior,
    "greedy": GreedyPrior,
    "probe": ProbePrior,
    "critic": CriticPrior,
    "context": ContextPrior,
}
FUSIONS: dict[str, type[Fusion]] = {
    "group_mean": GroupMean,
    "leave_one_out": LeaveOneOut,
    "prior_only": PriorOnly,
    "tested": Tested,
    "beta": BetaCounts,
    "james_stein": JamesStein,
    "ebpo": Ebpo,
    "length_weighted": LengthWeighted,
}
BUDGETS: dict[str, type[Budget]] = {
    "fixed": Fixed,
    "sequential": Sequential,
    "dynamic": Dynamic,
    "allocated": Allocated,
    "two_phase": TwoPhase,
    "weighted": Weighted,
}
ESTIMATORS: dict[str, type[Estimator]] = {"monte_carlo": MonteCarlo, "gae": Gae}
NORMALISERS: dict[str, type[Normaliser]] = {
    "none": NoNormaliser,
    "group_std": GroupStd,
    "batch_std": BatchStd,
}


def build_strategy(config: StrategyConfig, prior: Prior | None = None) -> Strategy:
    """Make a strategy run.

    `prior` replaces the configured prior (stubs in tests, a learned prior that a caller built itself).
    Raises StrategyError naming the import path that does not lead to a strategy.
    """
    if config.custom is not None:
        own: Strategy = _imported("custom", config.custom, config.params, Strategy)
        return own
    scale = Scale(*config.reward_range)
    made = prior if prior is not None else build_prior(config.prior, scale)
    fusion = _member("fusion", FUSIONS, config.fusion, Fusion)
    if made.reads_own and isinstance(config.fusion, axes.Custom) and not fusion.leaves_out:
        raise StrategyError(f"strategy.fusion: {config.fusion.path!r} {OWN_STATES}; set its `leaves_out`")
    main = Composed(
        prior=made,
        fusion=fusion,
        budget=_member("budget", BUDGETS, config.budget, Budget, _rule(config)),
        estimator=_member("estimator", ESTIMATORS, config.estimator, Estimator),
        normaliser=_member("normaliser", NORMALISERS, config.normaliser, Normaliser),
        weighting=config.weighting,
        scale=scale,
    )
    if config.warmup is None:
        return main
    return Warmup(build_strategy(config.warmup.strategy), main, config.warmup.updates)


def build_prior(config: axes.Prior, scale: Scale) -> Prior:
    """The configured prior; a custom one brings its own scale."""
    extra = {} if isinstance(config, axes.Custom) else {"scale": scale}
    return _member("prior", PRIORS, config, Prior, extra)


def _rule(config: StrategyConfig) -> dict[str, Any]:
    """Sequential stopping asks the fusion's own test, so that stopping and shrinking agree."""
    if not isinstance(config.budget, axes.Sequential):
        return {}
    if isinstance(config.fusion, axes.Tested):
        return {"rule": Tested(alpha=config.fusion.alpha, test=config.fusion.test)}
    return {"rule": Tested()}


def _member(
    axis: str,
    table: Mapping[str, Callable[..., T]],
    config: BaseModel,
    kind: Any,
    extra: Mapping[str, Any] | None = None,
) -> T:
    """One axis member from its table; the config's fields are the member's fields."""
    if isinstance(config, axes.Custom):
        made: T = _imported(axis, config.path, config.params, kind)
        return made
    fields = config.model_dump()
    return table[fields.pop("type")](**fields, **(extra or {}))


def _imported(axis: str, path: str, params: Mapping[str, Any], kind: Any) -> Any:
    """An instance of the user's own class. Errors inside its module or constructor stay as they are."""
    module_name, _, class_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise StrategyError(
            f"strategy.{axis}: {path!r}: no module {error.name!r}; install your package or put its folder on "
            f"PYTHONPATH (on every node)"
        ) from error
    member = getattr(module, class_name, None)
    if not callable(member):
        raise StrategyError(f"strategy.{axis}: {path!r}: module {module_name!r} has no class {class_name!r}")
    made = member(**params)
    if not isinstance(made, kind):
        raise StrategyError(
            f"strategy.{axis}: {path!r} makes a {type(made).__name__}, which is no {kind.__name__}; see "
            f"docs/strategies.md for the methods it needs"
        )
    return made
