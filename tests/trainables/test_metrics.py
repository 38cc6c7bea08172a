"""Metrics of a step: estimators against what they estimate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trainables.loop.metrics import noise_metrics, rollout_metrics
from trainables.strategies.batch import Batch, Kind
from trainables.strategies.diagnostics import describe
from trainables.strategies.fusion.base import masked
from trainables.strategies.groups import Groups


def test_gradient_noise_is_the_covariance_of_the_mean_gradient() -> None:
    rng = np.random.default_rng(0)
    mean, sd, rows = np.array([0.5, -1.0, 0.25]), 2.0, 16
    found = []
    for _ in range(20_000):
        g = mean + sd * rng.standard_normal((rows, 3))
        a, b = g[: rows // 2].mean(0), g[rows // 2 :].mean(0)
        found.append(noise_metrics((a @ a, b @ b, a @ b)))
    trace = np.mean([f["gradient_noise_trace"] for f in found])
    signal = np.mean([f["gradient_signal"] for f in found])
    assert trace == pytest.approx(3 * sd**2 / rows, rel=0.02)
    assert signal == pytest.approx(mean @ mean, rel=0.02)


def test_a_signal_below_zero_gives_no_ratio() -> None:
    assert "gradient_noise" not in noise_metrics((1.0, 1.0, -0.5))


@pytest.mark.parametrize(("w", "k"), [(1.0, 4), (0.5, 4), (0.25, 8)])
def test_the_baselines_mse_is_estimated_without_bias(w, k) -> None:
    rng = np.random.default_rng(1)
    prompts = 20_000
    p = rng.beta(1.2, 2.2, prompts)
    prior = np.clip(p + 0.1 * rng.standard_normal(prompts), 0, 1)
    rewards_PK = (rng.random((prompts, k)) < p[:, None]).astype(float)
    baseline_P = w * rewards_PK.mean(1) + (1 - w) * prior
    batch = batch_of(rewards_PK)
    groups = Groups(batch.prompt_N, batch.reward_N, prompts)
    every = np.ones(prompts * k, np.bool_)
    baseline = masked(np.repeat(baseline_P, k), every, np.full(prompts, w))
    notes = describe(batch, groups, None, baseline, batch.reward_N, 0.0)
    assert notes["baseline_mse"] == pytest.approx(np.mean((baseline_P - p) ** 2), abs=0.0015)


@pytest.mark.parametrize("kind", [Kind.GREEDY, Kind.REFERENCE])
def test_answers_that_are_no_samples_of_the_policy_are_no_part_of_the_training_accuracy(kind: Kind) -> None:
    """One sampled and one baseline answer to each of four prompts; the baseline's are all right."""
    batch = batch_of(np.array([[1.0, 1], [0, 1], [0, 1], [0, 1]]))
    extra_N = np.arange(8) % 2 == 1
    batch = replace(batch, kind_N=np.where(extra_N, int(kind), 0), trainable_N=~extra_N)
    metrics = rollout_metrics(batch)
    assert metrics["train_accuracy"] == metrics["reward"] == metrics["train_pass"] == 0.25
    assert metrics["verifier_failures"] == 0


def batch_of(rewards_PK: np.ndarray) -> Batch:
    prompts, k = rewards_PK.shape
    zeros = np.zeros(prompts * k, np.int64)
    return Batch(
        prompt_id_P=np.arange(prompts),
        stratum_P=np.zeros(prompts, np.int64),
        prompt_N=np.repeat(np.arange(prompts), k),
        round_N=zeros,
        kind_N=zeros,
        trainable_N=np.ones(prompts * k, np.bool_),
        verdict_N=zeros,
        correct_N=rewards_PK.ravel(),
        reward_N=rewards_PK.ravel(),
        length_N=zeros + 1,
        version_N=zeros,
        dropped_P=np.zeros(prompts, np.bool_),
    )
