"""Figures of one training step. NumPy only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import numpy as np
import numpy.typing as npt

from trainables.strategies.batch import Batch, FloatArray, Verdict


class Stopwatch:
    """Seconds by part of the step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begin = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - begin

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def mismatch(
    sampler_logprob_M: npt.NDArray[np.float32], learner_logprob_M: npt.NDArray[np.float32]
) -> dict[str, float]:
    """How far the engine's distribution is from the learner's, over the tokens that were drawn.

    `mismatch_kl`: KL(sampler || learner), nats per token, by the non-negative estimator r - 1 - log r.
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
    """From |g1|^2, |g2|^2 and g1 . g2 of two disjoint halves of a batch to the noise of its mean gradient.

    tr Cov(g) = |g1 - g2|^2 / 4 and |E g|^2 = g1 . g2, both unbiased for halves of equal size (McCandlish et
    al. 2018, arXiv 1812.06162, appendix A). The second may come out negative: average both before dividing.
    `gradient_noise` is their ratio in this step, left out where it has no meaning.
    """
    first, second, inner = products
    trace = (first + second - 2 * inner) / 4
    metrics = {"gradient_noise_trace": trace, "gradient_signal": inner}
    if inner > 0:
        metrics["gradient_noise"] = trace / inner
    return metrics


def rollout_metrics(batch: Batch) -> dict[str, float]:
    """Reward, accuracy, length and failures over all rollouts of the step, dropped ones included."""
    judged = batch.verdict_N == Verdict.OK
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
        "verifier_failures": float((~judged).mean()),
    }


def accuracy_metrics(correct_PK: FloatArray) -> dict[str, float]:
    """Accuracy of K sampled answers to each of P prompts.

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
