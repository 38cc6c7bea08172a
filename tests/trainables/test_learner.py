"""The DeepSpeed learner against plain torch: log-probs, gradients, ZeRO stages, checkpoints, resets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.config import LearnerConfig, LossConfig
from trainables.learner.tokens import TokenBatch, TrainBatch
from trimtab.errors import DivergedError

TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def tokens(tiny_model: Path) -> TokenBatch:
    """Twelve rollouts of mixed lengths: real prompts, random responses."""
    rng = np.random.default_rng(0)
    prompt = rng.integers(3, 12, 12).astype(np.int32)
    response = rng.integers(1, 9, 12).astype(np.int32)
    token = rng.integers(2, 16, int((prompt + response).sum())).astype(np.int32)
    return TokenBatch(prompt, response, token, np.zeros(int(response.sum()), dtype=np.float32))


def reset(group: Any, model: Path, **changes: Any) -> None:
    group.reset(str(model), LearnerConfig(**{"lr": 1e-3, **changes}), TEMPERATURE, 0)


def train(group: Any, tokens: TokenBatch, updates: int = 1, scale: float = 1.0) -> list[float]:
    """Updates towards the even rollouts and away from the odd ones; gradient norms."""
    sign = np.where(np.arange(tokens.rollouts) % 2, -scale, scale)
    advantage = np.repeat(sign, tokens.response_length_N).astype(np.float32)
    norms = []
    for _ in range(updates):
        old = group.forward(tokens).logprob_M
        sampler = TokenBatch(tokens.prompt_length_N, tokens.response_length_N, tokens.token_S, old)
        batch = TrainBatch(sampler, old, advantage, np.ones(12, dtype=np.float32), float(len(old)))
        norms.append(group.update(batch, LossConfig()).gradient_norm)
    return norms


def reference_logprobs(model: Path, tokens: TokenBatch) -> tuple[np.ndarray, np.ndarray]:
    """Each rollout alone, unpadded, through plain transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    logprobs, entropies, at = [], [], 0
    for prompt, response in zip(tokens.prompt_length_N, tokens.response_length_N, strict=True):
        ids = torch.tensor(tokens.token_S[at : at + prompt + response], dtype=torch.long)
        at += prompt + response
        with torch.no_grad():
            logits = policy(ids[None]).logits[0, prompt - 1 : -1] / TEMPERATURE
        lp = torch.log_softmax(logits, -1)
        logprobs.append(lp.gather(1, ids[prompt:, None])[:, 0].numpy())
        entropies.append(-(lp.exp() * lp).sum(-1).numpy())
    return np.concatenate(logprobs), np.concatenate(entropies)


@pytest.mark.parametrize("micro_batch_tokens", [16, 100, 8192])
def test_logprobs_and_entropies_are_exact_whatever_the_micro_batch(
    group, tiny_model, tokens, micro_batch_tokens
):
    reset(group, tiny_model, micro_batch_tokens=micro_batch_tokens)
    forward = group.forward(tokens)
    logprobs, entropies = reference_logprobs(tiny_model, tokens)
    np.testing.assert_allclose(forward.logprob_M, logprobs, atol=2e-5)
    np.testing.assert_allclose(forward.entropy_M, entropies, atol=2e-5)


def test_the_micro_batch_changes_memory_and_not_the_gradient(group, tiny_model, tokens):
    norms, after = [], []
    for budget in (16, 8192):
        reset(group, tiny_model, micro_batch_tokens=budget)
        norms.append(train(group, tokens))
        after.append(group.forward(tokens).logprob_M)
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    # Adam's first step divides each gradient by itself: rounding shows where a gradient is almost zero.
    np.testing.assert_allclose(after[0], after[1], atol=1e-3)


def test_zero_stages_train_alike(group, tiny_model, tokens):
    results = {}
    for stage in (0, 1, 2, 3):
        reset(group, tiny_model, zero_stage=stage)
        norms = train(group, tokens, updates=3)
        results[stage] = (norms, group.forward(tokens).logprob_M, set(group.weights().arrays))
    for stage in (1, 2, 3):
        assert results[stage][0] == pytest.approx(results[0][0], rel=1e-3)
        np.testing.assert_allclose(results[stage][1], results[0][1], atol=5e-3)
        assert results[stage][2] == results[0][2]


def test_training_moves_probability_towards_good_rollouts(group, tiny_model, tokens):
    reset(group, tiny_model)
    good = np.repeat(np.arange(12) % 2 == 0, tokens.response_length_N)
    before = group.forward(tokens).logprob_M
    train(group, tokens, updates=3)
    change = group.forward(tokens).logprob_M - before
    assert change[good].mean() > 0 > change[~good].mean()


def test_learning_rate_warms_up(group, tiny_model, tokens):
    def first_move(warmup: int) -> float:
        reset(group, tiny_model, lr_warmup_steps=warmup)
        before = group.weights().arrays
        train(group, tokens)
        after = group.weights().arrays
        return max(float(np.abs(after[n] - before[n]).max()) for n in before)

    assert first_move(10) == pytest.approx(first_move(0) / 10, rel=0.05)


@pytest.mark.parametrize("stage", [1, 3])
def test_resumed_training_equals_uninterrupted(group, tiny_model, tokens, stage, tmp_path):
    reset(group, tiny_model, zero_stage=stage, lr_warmup_steps=4)
    train(group, tokens, updates=2)
    group.save(tmp_path)
    train(group, tokens, updates=2)
    straight = group.weights().arrays
    reset(group, tiny_model, zero_stage=stage, lr_warmup_steps=4)
    group.load(tmp_path)
    train(group, tokens, updates=2)
    for name, array in group.weights().arrays.items():
        assert np.array_equal(array, straight[name]), name


def test_a_checkpoint_loads_in_plain_transformers(group, tiny_model, tokens, tmp_path):
    reset(group, tiny_model)
    train(group, tokens)
    group.save(tmp_path)
    logprobs, _ = reference_logprobs(tmp_path / "model", tokens)
    np.testing.assert_allclose(group.forward(tokens).logprob_M, logprobs, atol=2e-5)


def test_a_reset_leaves_nothing_of_the_last_trial(group, tiny_model, tokens):
    reset(group, tiny_model)
    fresh = (train(group, tokens, updates=2), group.weights().arrays)
    reset(group, tiny_model, lr=0.5, zero_stage=2)
    train(group, tokens, updates=3)
    reset(group, tiny_model)
    again = (train(group, tokens, updates=2), group.weights().arrays)
    assert fresh[0] == again[0]
    assert all(np.array_equal(fresh[1][name], again[1][name]) for name in fresh[1])


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_advantages_of_zero_are_a_zero_gradient_and_no_divergence(group, tiny_model, tokens, stage):
    reset(group, tiny_model, zero_stage=stage)
    assert train(group, tokens, scale=0.0) == [0.0]


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_gradient_that_is_not_finite_diverges(group, tiny_model, tokens, stage):
    reset(group, tiny_model, zero_stage=stage)
    with pytest.raises(DivergedError, match=r"learner\.lr"):
        train(group, tokens, scale=float("nan"))


@pytest.mark.parametrize("stage", [1, 2])
def test_bfloat16_sums_micro_batches_in_float32(group, tiny_model, tokens, stage):
    """One rollout a micro-batch: in bfloat16 the sum over them would lose what the single pass keeps."""
    import torch

    reset(group, tiny_model, dtype="bfloat16", zero_stage=stage)
    (whole,) = train(group, tokens)
    engine = group._learner._engine
    assert engine.get_data_types() == (torch.bfloat16, torch.float32)
    reset(group, tiny_model, dtype="bfloat16", zero_stage=stage, micro_batch_tokens=1)
    (parts,) = train(group, tokens)
    assert parts == pytest.approx(whole, rel=0.02)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_gradient_products_are_those_of_the_updates_gradient(group, tiny_model, tokens, stage):
    reset(group, tiny_model, zero_stage=stage, grad_clip=1e9)
    before = group.weights().arrays
    old = group.forward(tokens).logprob_M
    sampler = TokenBatch(tokens.prompt_length_N, tokens.response_length_N, tokens.token_S, old)
    sign = np.where(np.arange(tokens.rollouts) % 2, -1.0, 1.0)
    advantage = np.repeat(sign, tokens.response_length_N).astype(np.float32)
    batch = TrainBatch(sampler, old, advantage, np.ones(12, dtype=np.float32), float(len(old)))
    half = TrainBatch(sampler, old, 0.5 * advantage, np.ones(12, dtype=np.float32), float(len(old)))
    whole, quarter, inner = group.gradient_products(batch, half, LossConfig())
    assert quarter == pytest.approx(whole / 4, rel=1e-4)
    assert inner == pytest.approx(whole / 2, rel=1e-4)
    for name, weight in group.weights().arrays.items():
        np.testing.assert_array_equal(weight, before[name])
    assert group.update(batch, LossConfig()).gradient_norm == pytest.approx(whole**0.5, rel=1e-4)
