"""From scores to optimizer updates: a step's mini-batches, and how noisy their gradient is."""

from __future__ import annotations

import numpy as np

from trainables.config import LossConfig
from trainables.learner.results import UpdateStats
from trainables.learner.tokens import Float32, Int32, TokenBatch, TrainBatch, ragged_index
from trainables.learner.value_batch import ValueBatch, positions
from trainables.loop.metrics import noise_metrics
from trainables.loop.state import Run
from trainables.strategies.batch import Batch, FloatArray, IntArray, Scores


def reference_logprobs(run: Run, tokens: TokenBatch, scores: Scores) -> Float32 | None:
    """Return the log-prob (M,) of each token under the reference, NaN where it is not trained.

    None where the loss has no KL to one.
    """
    rows = np.flatnonzero(scores.weight_N != 0)
    if not run.config.loss.kl.coefficient or not len(rows):
        return None
    logprob_M = np.full(tokens.response_tokens, np.nan, dtype=np.float32)
    index = ragged_index(tokens.response_length_N, rows)
    logprob_M[index] = run.lease.learner.reference_logprobs(tokens.take(rows))
    return logprob_M


def update_policy(
    run: Run,
    batch: Batch,
    tokens: TokenBatch,
    scores: Scores,
    old_logprob_M: Float32,
    reference_logprob_M: Float32 | None = None,
) -> list[UpdateStats]:
    """Make `learner.mini_batches` clipped updates, each on whole prompts. Returns what each update did.

    Fewer where fewer prompts are trained, and none where none is (see `mini_batches`).

    Raises:
        DivergedError: A gradient is not finite.
    """
    parts = run.config.learner.mini_batches
    batches = mini_batches(run, batch, tokens, scores, old_logprob_M, parts, reference_logprob_M)
    return [run.lease.learner.update(mini_batch, run.config.loss) for mini_batch in batches]


def measure_noise(
    run: Run,
    batch: Batch,
    tokens: TokenBatch,
    scores: Scores,
    old_logprob_M: Float32,
    reference_logprob_M: Float32 | None = None,
) -> dict[str, float]:
    """Measure tr Cov(g) and |E g|^2 of the step's gradient, every `learner.gradient_noise_every` steps."""
    every = run.config.learner.gradient_noise_every
    if not every or run.counters.step % every:
        return {}
    halves = mini_batches(run, batch, tokens, scores, old_logprob_M, 2, reference_logprob_M)
    if len(halves) < 2:
        return {}
    return noise_metrics(run.lease.learner.gradient_products(halves[0], halves[1], run.config.loss))


def mini_batches(
    run: Run,
    batch: Batch,
    tokens: TokenBatch,
    scores: Scores,
    old_logprob_M: Float32,
    parts: int,
    reference_logprob_M: Float32 | None = None,
) -> list[TrainBatch]:
    """Deal the prompts that are trained into `parts` mini-batches, or into fewer: each has a prompt at least.

    A prompt is trained if one of its rollouts has a weight. Mini-batches differ by one prompt at most,
    however many prompts were dropped, and hold trained rollouts only. Each divides its loss by its own
    trained tokens or rollouts (`trainables.learner.losses.denominator_of`).
    """
    advantage_M = np.repeat(scores.advantage_N, tokens.response_length_N)
    if scores.advantage_tokens is not None:
        advantage_M = np.concatenate(scores.advantage_tokens)
    rng = np.random.default_rng([run.seed, run.counters.step, 0xBA7C])
    trained_N = scores.weight_N != 0
    shuffled_P = rng.permutation(batch.prompts)
    # Dropped prompts go before the cut: cut first, and chance decides how much each update trains.
    trained_P = shuffled_P[np.isin(shuffled_P, batch.prompt_N[trained_N])]
    found = []
    for prompts in np.array_split(trained_P, max(1, min(parts, len(trained_P)))):
        rows = np.flatnonzero(np.isin(batch.prompt_N, prompts) & trained_N)
        if not len(rows):
            continue
        index, length_N = ragged_index(tokens.response_length_N, rows), tokens.response_length_N[rows]
        weight_N = scores.weight_N[rows]
        if scores.equal_prompts and run.config.loss.aggregation == "token_mean":
            weight_N = equal_prompts(weight_N, batch.prompt_N[rows], length_N)
        found.append(
            TrainBatch(
                tokens=tokens.take(rows),
                old_logprob_M=old_logprob_M[index],
                advantage_M=advantage_M[index].astype(np.float32),
                weight_N=weight_N.astype(np.float32),
                denominator=run.denominator(length_N),
                reference_logprob_M=None if reference_logprob_M is None else reference_logprob_M[index],
            )
        )
    return found


def equal_prompts(weight_N: FloatArray, prompt_N: IntArray, length_N: Int32) -> FloatArray:
    """Scale the weights of rollouts, (N,), so that the tokens of each prompt weigh the same together.

    All tokens together weigh as much as their number, which is what a mean over tokens divides by.
    """
    mass_P = np.bincount(prompt_N, weight_N * length_N)
    each = length_N.sum() / max(1, np.count_nonzero(mass_P))
    return np.asarray(weight_N * each / np.where(mass_P > 0, mass_P, 1.0)[prompt_N])


def update_metrics(updates: list[UpdateStats], loss: LossConfig) -> dict[str, float]:
    """Summarise the step's updates of the policy.

    `kl_reference`: mean KL to the reference of a trained token, nats, by the estimator of `loss.kl`; left out
    where the loss has none.
    """
    tokens = sum(u.tokens for u in updates)
    metrics = {"updates": float(len(updates)), "trained_tokens": float(tokens)}
    if updates:
        metrics["gradient_norm"] = float(np.mean([u.gradient_norm for u in updates]))
        metrics["loss"] = float(np.mean([u.loss for u in updates]))
        metrics["clip_fraction"] = sum(u.clipped_tokens for u in updates) / tokens
        metrics["importance_capped"] = sum(u.capped_tokens for u in updates) / tokens
        if loss.kl.coefficient:
            metrics["kl_reference"] = sum(u.kl_reference for u in updates) / tokens
    return metrics


def update_critic(run: Run, batch: Batch, tokens: TokenBatch, scores: Scores) -> dict[str, float]:
    """Fit the critic to the strategy's value targets, in mini-batches of whole prompts.

    Returns metrics; none without a critic or a target.

    Raises:
        DivergedError: A gradient is not finite.
    """
    needs = run.needs.values
    if needs is None or scores.value_targets is None:
        return {}
    target_M = np.concatenate(scores.value_targets).astype(np.float32)
    old_M = None if batch.values is None else np.concatenate(batch.values).astype(np.float32)
    rng = np.random.default_rng([run.seed, run.counters.step, 0xC217])
    done = []
    for prompts in np.array_split(rng.permutation(batch.prompts), min(needs.mini_batches, batch.prompts)):
        rows = np.flatnonzero(np.isin(batch.prompt_N, prompts))
        part, length_N = tokens.take(rows), tokens.response_length_N[rows]
        index = ragged_index(tokens.response_length_N, rows)
        part_M = target_M[index]
        if np.isfinite(part_M).any():
            count = positions(part_M, length_N, needs.level)
            before_M = None if old_M is None or needs.clip is None else old_M[index]
            done.append(run.lease.learner.update_values(ValueBatch(part, part_M, count, before_M)))
    if not done:
        return {}
    return {
        "critic_loss": float(np.mean([stats.loss for stats in done])),
        "critic_gradient_norm": float(np.mean([stats.gradient_norm for stats in done])),
        "critic_clipped": float(np.mean([stats.clipped for stats in done])),
    }
