"""Checks of learned priors beside the other axes: ValueErrors with field, value and fix. Pydantic only."""

from __future__ import annotations

from trainables.strategies import axes

OWN_STATES = (
    "lets the probe read the states of the very rollout that it is a baseline for: they depend on the "
    "rollout's own tokens, so the gradient would be biased"
)


def check_probe(prior: axes.Prior, fusion: axes.Fusion, budget: str, smallest: int) -> None:
    """A trajectory's own states must not enter its own baseline. `smallest`: rollouts of a first round."""
    if not isinstance(prior, axes.ProbePrior):
        return
    if prior.layer == "auto" and prior.depth != axes.ProbePrior().depth:
        raise ValueError(f"prior.depth: {prior.depth} beside layer 'auto', which chooses; remove one of them")
    if isinstance(prior.layer, int) and prior.layer < 0:
        raise ValueError(f"prior.layer: {prior.layer} is no block; blocks count from 0, or write auto")
    if prior.states == "prompt":
        return
    if isinstance(fusion, axes.PriorOnly | axes.Tested | axes.BetaCounts):
        if not fusion.leave_one_out:
            raise ValueError(
                f"fusion.leave_one_out: false {OWN_STATES}; set leave_one_out: true, or prior.states: prompt"
            )
        if smallest < 2 and budget != "custom":
            raise ValueError(
                f"budget: {budget!r} may leave a prompt with one rollout, which has no other one "
                f"whose states the probe could read; start with at least 2, or set prior.states: prompt"
            )


def check_critic(prior: axes.Prior, estimator: axes.Estimator, reward_range: tuple[float, float]) -> None:
    """A prompt's critic knows probabilities, and one value only."""
    if not isinstance(prior, axes.CriticPrior) or prior.level == "token":
        return
    if prior.clip is not None:
        raise ValueError(
            f"prior.clip: {prior.clip:g} limits a squared error, and level 'prompt' is fitted by "
            f"cross-entropy; remove clip, or set level to token"
        )
    if reward_range != (0.0, 1.0):
        low, high = reward_range
        raise ValueError(
            f"prior.level: 'prompt' is fitted by cross-entropy, which takes rewards in [0, 1], not in "
            f"[{low:g}, {high:g}]; set level to token, or rewards to [0, 1]"
        )
    if estimator.type == "gae":
        raise ValueError(
            "prior.level: 'prompt' gives one value a prompt under estimator 'gae'; set it to token"
        )
