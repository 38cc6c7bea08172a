"""Metrics of one training step. NumPy only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import numpy as np
import numpy.typing as npt

from trainables.errors import DivergedError
from trainables.loop.buffer import Reading
from trainables.strategies.batch import Batch, FloatArray, Verdict
from trainables.strategies.scale import verified_N
from trainables.trial import TrialConfig


class Stopwatch:
    """Adds up wall seconds by part of the step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to the part `name`."""
        begin = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - begin

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())


def mismatch(
    sampler_logprob_M: npt.NDArray[np.float32], learner_logprob_M: npt.NDArray[np.float32]
) -> dict[str, float]:
    """Measure how far the engine's distribution is from the learner's, over M sampled tokens.

    `mismatch_kl`: KL(sampler || learner), nats per token, by the non-negative estimator r - 1 - log r.
    `mismatch_max`: the largest difference of a token's log-prob, nats.
    `effective_sample_size`: (sum w)^2 / (M sum w^2) of the token weights w = pi_learner / pi_sampler.
    """
    if not len(sampler_logprob_M):
        return {"mismatch_kl": 0.0, "mismatch_max": 0.0, "effective_sample_size": 1.0}
    difference = (learner_logprob_M - sampler_logprob_M).astype(np.float64)
    ratio = np.exp(difference)
    return {
        "mismatch_kl": float(np.mean(ratio - 1.0 - difference)),
        "mismatch_max": float(np.abs(difference).max()),
        "effective_sample_size": float(ratio.sum() ** 2 / (len(ratio) * np.square(ratio).sum())),
    }


def noise_metrics(products: tuple[float, float, float]) -> dict[str, float]:
    """Estimate the noise of a batch's mean gradient from |g1|^2, |g2|^2 and g1 . g2 of its two halves.

    tr Cov(g) = |g1 - g2|^2 / 4 and |E g|^2 = g1 . g2, both unbiased for halves of equal size (McCandlish et
    al. 2018, arXiv 1812.06162, appendix A). The second may come out negative: average both before dividing.
    `gradient_noise` is their ratio in this step; it is left out unless the second is positive.
    """
    first, second, inner = products
    trace = (first + second - 2 * inner) / 4
    metrics = {"gradient_noise_trace": trace, "gradient_signal": inner}
    if inner > 0:
        metrics["gradient_noise"] = trace / inner
    return metrics


def rollout_metrics(batch: Batch) -> dict[str, float]:
    """Average reward, accuracy, length and failures over the rollouts of the step, dropped ones included.

    Answers that are no samples of the policy (ReMax's greedy ones) are in length and failures alone: they
    are drawn for a baseline and score otherwise. Samples that are not trained count: they tell as much.
    """
    judged = verified_N(batch)
    right_P = np.zeros(batch.prompts, dtype=np.bool_)
    right_P[batch.prompt_N[judged & (batch.correct_N >= 1.0)]] = True
    return {
        "reward": _mean(batch.reward_N[judged]),
        "train_accuracy": _mean(batch.correct_N[judged]),
        "train_pass": float(right_P.mean()),
        "response_length": float(batch.length_N.mean()),
        "prompts": float(batch.prompts),
        "dropped_prompts": float(batch.dropped_P.sum()),
        "rounds": float(batch.round_N.max() + 1),
        "verifier_failures": float((batch.verdict_N != Verdict.OK).mean()),
    }


def reading_metrics(reading: Reading) -> dict[str, float]:
    """Return the mean entropy of a token, nats, and the memory of the strategy's features, if any."""
    metrics = {"entropy": float(reading.entropy_M.mean())}
    if reading.features is not None:
        rollouts = len(reading.features.prompt_NF)
        metrics["features_kb_per_rollout"] = reading.features.nbytes / 1e3 / rollouts
    return metrics


def check_drift(mismatch_kl: float, config: TrialConfig, step: int) -> None:
    """Refuse to train on rollouts whose sampler is too far from the learner.

    Raises:
        DivergedError: `mismatch_kl`, nats per token, is not finite or exceeds `loss.max_mismatch_kl`.
    """
    if not np.isfinite(mismatch_kl):
        raise DivergedError(
            f"step {step}: log-probs are not finite; lower learner.lr (now {config.learner.lr:g})"
        )
    limit = config.loss.max_mismatch_kl
    if limit is not None and not mismatch_kl <= limit:
        raise DivergedError(
            f"step {step}: KL between sampler and learner is {mismatch_kl:.3g} nats per token, more than "
            f"loss.max_mismatch_kl={limit:g}; lower learner.lr (now {config.learner.lr:g})"
        )


def accuracy_metrics(correct_PK: FloatArray) -> dict[str, float]:
    """Summarise the correctness of K sampled answers to each of P prompts.

    `accuracy` is mean@K; `accuracy_stderr` its standard error over prompts (answers to one prompt are not
    independent); `pass_at_k` the share of prompts with at least one right answer.
    """
    prompts, samples = correct_PK.shape
    per_prompt_P = correct_PK.mean(axis=1)
    spread = per_prompt_P.std(ddof=1) / np.sqrt(prompts) if prompts > 1 else float("nan")
    return {
        "accuracy": float(per_prompt_P.mean()),
        "accuracy_stderr": float(spread),
        "pass_at_k": float((correct_PK >= 1.0).any(axis=1).mean()),
        "answers": float(prompts * samples),
    }


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else 0.0
