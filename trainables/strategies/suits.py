"""Whether a strategy suits a model: its depth and width."""

from __future__ import annotations

from trainables.strategies.config import StrategyConfig
from trainables.strategies.priors.probe import ProbePrior

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
