"""Scalars that `score` reports, under the same names for every strategy. Undefined ones are left out."""

from __future__ import annotations

import numpy as np

from trainables.strategies.batch import Batch, FloatArray
from trainables.strategies.fusion.base import Baseline
from trainables.strategies.groups import Groups
from trainables.strategies.scale import verified_N
from trainables.strategies.value_estimate import ValueEstimate

ACCEPTED = 1e-12
"""A group weight up to this counts as an accepted prior."""


def describe(
    batch: Batch,
    groups: Groups,
    estimate: ValueEstimate | None,
    baseline: Baseline,
    advantage_N: FloatArray,
    shortfall: float,
) -> dict[str, float]:
    """Return the diagnostics of one scored batch.

    prompts, rollouts_per_prompt (paid samples), uniform_groups, dropped_prompts, invalid_rollouts (shares),
    scored_rollouts (share), shortfall, baseline_mean, baseline_mse (see `_baseline_mse`),
    adv_var_over_reward_var (before normalising); with a prior also prior_mean, prior_rmse (against group
    means), prior_error (the same without their sampling noise), prior_accept_rate, w_mean.
    """
    live_P = groups.count_P > 0
    # Dropped prompts included: they are exactly the uniform ones under dynamic sampling.
    judged = Groups(batch.prompt_N, batch.correct_N, batch.prompts, verified_N(batch) & batch.trainable_N)
    scored_N = baseline.scored_N
    notes = {
        "prompts": float(batch.prompts),
        "rollouts_per_prompt": batch.rollouts / max(1, batch.prompts),
        "scored_rollouts": _mean(scored_N),
        "invalid_rollouts": _mean(batch.verdict_N != 0),
        "dropped_prompts": _mean(batch.dropped_P),
        "uniform_groups": _mean(judged.uniform_P[judged.count_P > 0]),
        "shortfall": shortfall,
    }
    if scored_N.any():
        notes["baseline_mean"] = float(baseline.mean_N[scored_N].mean())
        notes["reward_mean"] = float(groups.value_N[scored_N].mean())
        variance = float(batch.reward_N[scored_N].var())
        if variance > 0:
            notes["adv_var_over_reward_var"] = float(advantage_N[scored_N].var()) / variance
    mse = _baseline_mse(groups, baseline, has_prior=estimate is not None)
    if mse is not None:
        notes["baseline_mse"] = mse
    if baseline.w_P is not None and live_P.any():
        notes["w_mean"] = float(baseline.w_P[live_P].mean())
    if estimate is not None and live_P.any():
        notes |= _prior(groups, estimate.for_prompts(groups))
        notes |= forecast(estimate.for_rollouts(groups, leave_one_out=True), groups)
        if baseline.w_P is not None:
            notes["prior_accept_rate"] = _mean(baseline.w_P[live_P] <= ACCEPTED)
    return notes


def _baseline_mse(groups: Groups, baseline: Baseline, *, has_prior: bool) -> float | None:
    """Return the mean over prompts of the estimated (b - pass rate)^2, b being the prompt's mean baseline.

    With b = w m + (1 - w) V and m the mean of k rewards, E (b - mu)^2 = E (b - m)^2 + (2 w - 1) s^2 / k at
    fixed w; s^2 is the group's sample variance. A fusion that gives no w used the group alone, or, with a
    prior, the prior alone. A single prompt's estimate may be negative, the mean of many is not biased by it.
    """
    own_P = groups.with_values(baseline.mean_N)
    pair_P = groups.count_P >= 2
    if not pair_P.any():
        return None
    w_P = baseline.w_P if baseline.w_P is not None else np.full(groups.prompts, 0.0 if has_prior else 1.0)
    noise_P = groups.variance_P / np.maximum(groups.count_P, 1.0)
    mse_P = (own_P.mean_P - groups.mean_P) ** 2 + (2 * w_P - 1) * noise_P
    return float(mse_P[pair_P].mean())


def _prior(groups: Groups, prior_P: FloatArray) -> dict[str, float]:
    speaks_P = np.isfinite(prior_P)
    live_P, pair_P = (groups.count_P > 0) & speaks_P, (groups.count_P >= 2) & speaks_P
    if not live_P.any():
        return {}
    square_P = (groups.mean_P - prior_P) ** 2
    notes = {
        "prior_mean": float(prior_P[live_P].mean()),
        "prior_rmse": float(np.sqrt(square_P[live_P].mean())),
    }
    if pair_P.any():
        noise_P = groups.variance_P / np.maximum(groups.count_P, 1.0)
        notes["prior_error"] = float(np.sqrt(max(0.0, (square_P - noise_P)[pair_P].mean())))
    return notes


def forecast(estimate_N: FloatArray, groups: Groups, prefix: str = "prior") -> dict[str, float]:
    """Return mean absolute error and Pearson r of value estimates that did not see the rewards they predict.

    `estimate_N` comes from before this step's update and leaves each rollout's own states out.
    """
    used_N = groups.mask_N & np.isfinite(estimate_N)
    if not used_N.any():
        return {}
    estimate, reward = estimate_N[used_N], groups.value_N[used_N]
    notes = {f"{prefix}_mae": float(np.abs(estimate - reward).mean())}
    if estimate.std() > 1e-12 and reward.std() > 0:
        notes[f"{prefix}_pearson"] = float(np.corrcoef(estimate, reward)[0, 1])
    return notes


def _mean(flags: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> float:
    return float(flags.mean()) if flags.size else 0.0
