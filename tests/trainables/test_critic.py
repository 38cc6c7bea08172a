"""The critic's DeepSpeed engine beside the policy's: values, both losses, ZeRO stages, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.config import LearnerConfig
from trainables.learner.tokens import TokenBatch
from trainables.learner.value_batch import ValueBatch, positions
from trainables.strategies.batch import CriticNeeds
from trimtab.errors import StrategyError


@pytest.fixture(scope="module")
def tokens() -> TokenBatch:
    """Twelve rollouts of four prompts, mixed lengths."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(2, 16, size).astype(np.int32) for size in (4, 7, 9, 5)]
    rows = [prompts[row // 3] for row in range(12)]
    response = rng.integers(1, 9, 12).astype(np.int32)
    token = np.concatenate(
        [np.concatenate([p, rng.integers(2, 16, t)]) for p, t in zip(rows, response, strict=True)]
    ).astype(np.int32)
    prompt = np.array([len(p) for p in rows], np.int32)
    return TokenBatch(prompt, response, token, np.zeros(int(response.sum()), np.float32))


RATE = np.repeat([0.1, 0.9, 0.5, 0.3], 3).astype(np.float32)
"""What every state of a prompt's rollouts is worth."""


def reset(group: Any, model: Path, level: str = "token", **changes: Any) -> None:
    needs = CriticNeeds(level, lr=3e-3, start=0.25)  # type: ignore[arg-type]
    group.reset(str(model), LearnerConfig(**changes), 1.0, 0, needs)


def fit(group: Any, tokens: TokenBatch, level: str = "token", updates: int = 60) -> list[float]:
    target_M = np.repeat(RATE, tokens.response_length_N)
    count = positions(target_M, tokens.response_length_N, level)  # type: ignore[arg-type]
    return [group.update_values(ValueBatch(tokens, target_M, count)).loss for _ in range(updates)]


@pytest.mark.parametrize("level", ["token", "prompt"])
def test_values_begin_at_the_start_and_learn_their_targets(group, tiny_model, tokens, level):
    reset(group, tiny_model, level)
    np.testing.assert_allclose(group.values(tokens), 0.25, atol=1e-6)
    policy = group.forward(tokens).logprob_M
    losses = fit(group, tokens, level)
    assert losses[-1] < losses[0]
    value_M = group.values(tokens)
    np.testing.assert_allclose(value_M, np.repeat(RATE, tokens.response_length_N), atol=0.12)
    assert np.array_equal(group.forward(tokens).logprob_M, policy), "the policy is another model"


def test_a_prompts_value_ignores_the_response(group, tiny_model, tokens):
    reset(group, tiny_model, "prompt")
    fit(group, tokens, "prompt", updates=5)
    first = np.cumsum(tokens.response_length_N) - tokens.response_length_N
    value_N = group.values(tokens)[first]
    for prompt in range(4):
        np.testing.assert_allclose(value_N[3 * prompt : 3 * prompt + 3], value_N[3 * prompt], atol=1e-5)
    assert len(np.unique(value_N.round(4))) == 4


def test_the_loss_is_the_mean_over_targets_and_no_target_is_no_gradient(group, tiny_model, tokens):
    target_M = np.repeat(RATE, tokens.response_length_N)
    for level, want in (
        ("token", 0.5 * np.square(target_M - 0.25).mean()),
        ("prompt", -(RATE * np.log(0.25) + (1 - RATE) * np.log(0.75)).mean()),
    ):
        reset(group, tiny_model, level)
        assert fit(group, tokens, level, updates=1)[0] == pytest.approx(want, rel=1e-4)
    reset(group, tiny_model)
    nothing = ValueBatch(tokens, np.full_like(target_M, np.nan), 1.0)
    stats = group.update_values(nothing)
    assert (stats.loss, stats.gradient_norm) == (0.0, 0.0)


def test_a_value_that_has_moved_far_enough_gets_no_gradient(group, tiny_model, tokens):
    """All values are .25 now; `old_M` says where they were before the step."""
    first = np.cumsum(tokens.response_length_N) - tokens.response_length_N
    length = tokens.response_length_N[0]
    old_M = np.full(tokens.response_tokens, 0.25, np.float32)
    old_M[first[0] : first[0] + length] = 0.0
    needs = CriticNeeds("token", lr=3e-3, start=0.25, clip=0.1)
    group.reset(str(tiny_model), LearnerConfig(), 1.0, 0, needs)

    def update(target: float) -> Any:
        target_M = np.full(tokens.response_tokens, np.nan, np.float32)
        target_M[first[0] : first[0] + length] = target
        return group.update_values(ValueBatch(tokens, target_M, float(length), old_M))

    towards = update(1.0)
    assert (towards.gradient_norm, towards.clipped) == (0.0, 1.0)
    assert towards.loss == pytest.approx(0.5 * 0.9**2), "the loss of the value held at .1"
    back = update(-1.0)
    assert back.gradient_norm > 0
    assert back.clipped == 0.0
    assert back.loss == pytest.approx(0.5 * 1.25**2)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_zero_stages_and_micro_batches_fit_alike(group, tiny_model, tokens, stage):
    reset(group, tiny_model)
    want = fit(group, tokens, updates=4)
    reset(group, tiny_model, zero_stage=stage, micro_batch_tokens=40)
    assert fit(group, tokens, updates=4) == pytest.approx(want, rel=2e-3)


@pytest.mark.parametrize("stage", [1, 3])
def test_a_checkpoint_holds_the_critic(group, tiny_model, tokens, stage, tmp_path):
    reset(group, tiny_model, zero_stage=stage)
    fit(group, tokens, updates=3)
    group.save(tmp_path)
    straight = fit(group, tokens, updates=2)
    reset(group, tiny_model, zero_stage=stage)
    group.load(tmp_path)
    assert fit(group, tokens, updates=2) == straight


def test_a_reset_without_a_critic_has_none(group, tiny_model, tokens):
    reset(group, tiny_model)
    group.reset(str(tiny_model), LearnerConfig(), 1.0, 0)
    with pytest.raises(StrategyError, match="no critic"):
        group.values(tokens)
