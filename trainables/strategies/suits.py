"""Whether a strategy suits a model, by its depth and width, and the length of a run."""

from __future__ import annotations

from trainables.strategies.config import StrategyConfig
from trainables.strategies.priors.probe import ProbePrior
from trainables.strategies.warmup import LARGE, WarmUpPlan

SHRINKS = 1.0
"""Ridge penalty on standardised columns from which the rows need not determine them all."""


def depth_error(config: StrategyConfig, layers: int) -> str | None:
    """Return what is wrong if the strategy reads a block that the model does not have, or None."""
    prior = config.prior
    if not isinstance(prior, ProbePrior) or not isinstance(prior.layer, int):
        return None
    return layer_error(prior.layer, layers)


def layer_error(layer: int, layers: int) -> str | None:
    """Return what is wrong with block `layer` in a model of `layers` decoder blocks, or None."""
    if 0 <= layer < layers:
        return None
    return (
        f"strategy.prior.layer: {layer} is beyond the model's depth: it has {layers} decoder blocks, 0 to "
        f"{layers - 1}; lower layer, or give a relative depth in (0, 1]"
    )


def warnings(config: StrategyConfig, width: int) -> list[str]:
    """Return what will work badly on a model of this width, though it can run."""
    prior = config.prior
    if not isinstance(prior, ProbePrior):
        return []
    whole = prior.survey_width or width if prior.layer == "auto" else width
    prompt, response = (min(whole, pca) if pca else whole for pca in (prior.pca_prompt, prior.pca_response))
    columns = prompt if prior.states == "prompt" else prompt + response + 3
    if prior.buffer >= columns or (prior.model == "ridge" and prior.penalty >= SHRINKS):
        return []
    problem = (
        f"strategy.prior.buffer: {prior.buffer} rows for {columns} features, which model {prior.model!r} "
        f"with penalty {prior.penalty:g} will memorise; set pca_prompt and pca_response, model: ridge "
        f"with a penalty of at least {SHRINKS:g}, or buffer to at least {columns}"
    )
    return [problem]


def warmup_error(config: StrategyConfig, steps: int) -> str | None:
    """Return what is wrong with a warm-up that takes a whole run of so many steps, or None."""
    found = _warmup(config)
    if found is None or found.updates < steps:
        return None
    under = found.under or "the critic alone"
    return (
        f"{config.label()}: all {steps} steps of a run would be warm-up ({found.updates} updates of "
        f"{under}), and the strategy itself would never act; set {_field(config)} to at most "
        f"{max(0, (steps - 1) // 3)}, or trial.steps above {3 * found.updates}"
    )


def warmup_warning(config: StrategyConfig, steps: int) -> str | None:
    """Return what a long warm-up does to a run of so many steps, or None."""
    found = _warmup(config)
    if found is None or found.updates < LARGE * steps:
        return None
    under = f"under {found.under}" if found.under else "of the critic alone"
    return (
        f"{config.label()}: {found.updates} of a run's {steps} updates ({found.updates / steps:.0%}) are "
        f"warm-up {under}: the comparison says as much about that; lower {_field(config)}, or "
        "raise trial.steps"
    )


def _warmup(config: StrategyConfig) -> WarmUpPlan | None:
    return WarmUpPlan.of(config.model_dump(mode="json", include={"warmup", "prior"}))


def _field(config: StrategyConfig) -> str:
    if config.warmup is None:
        return "warmup_updates" if config.name else "prior.warmup_updates"
    return "warmup_updates" if "warmup" not in config.settings and config.name else "warmup.updates"
