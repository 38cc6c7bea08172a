"""The DeepSpeed learner against plain torch: log-probs, gradients, ZeRO stages, checkpoints, resets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.config import EngineConfig, LearnerConfig, LossConfig
from trainables.learner.results import UpdateStats
from trainables.learner.tokens import TokenBatch, TrainBatch
from trainables.loop.lease import Lease
from trainables.loop.rlvr import run_trial
from trainables.tasks.addition import Addition
from trainables.trial import TrialConfig
from trainables.verifier.verifier import Verifier
from trainables.weight_sync.transport import Transfer
from trimtab.errors import DivergedError, ModelError, StrategyError

TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def tokens(tiny_model: Path) -> TokenBatch:
    """Twelve rollouts of mixed lengths: real prompts, random responses."""
    rng = np.random.default_rng(0)
    prompt = rng.integers(3, 12, 12).astype(np.int32)
    response = rng.integers(1, 9, 12).astype(np.int32)
    token = rng.integers(2, 16, int((prompt + response).sum())).astype(np.int32)
    return TokenBatch(prompt, response, token, np.zeros(int(response.sum()), dtype=np.float32))


def reset(group: Any, model: Path, reference: Path | None = None, **changes: Any) -> None:
    held_to = None if reference is None else str(reference)
    group.reset(str(model), LearnerConfig(**{"lr": 1e-3, **changes}), TEMPERATURE, 0, None, held_to)


def train(
    group: Any, tokens: TokenBatch, updates: int = 1, scale: float = 1.0, loss: LossConfig | None = None
) -> list[float]:
    """Updates towards the even rollouts and away from the odd ones; gradient norms."""
    sign = np.where(np.arange(tokens.rollouts) % 2, -scale, scale)
    advantage = np.repeat(sign, tokens.response_length_N).astype(np.float32)
    norms = []
    for _ in range(updates):
        old = group.forward(tokens).logprob_M
        sampler = TokenBatch(tokens.prompt_length_N, tokens.response_length_N, tokens.token_S, old)
        batch = TrainBatch(sampler, old, advantage, np.ones(12, dtype=np.float32), float(len(old)))
        norms.append(group.update(batch, loss or LossConfig()).gradient_norm)
    return norms


def pull(group: Any, tokens: TokenBatch, loss: LossConfig) -> UpdateStats:
    """One update without an advantage: only what the loss adds to the surrogate acts."""
    old, length = group.forward(tokens).logprob_M, tokens.response_tokens
    reference = group.reference_logprobs(tokens) if loss.kl.coefficient else None
    sampler = TokenBatch(tokens.prompt_length_N, tokens.response_length_N, tokens.token_S, old)
    weight_N, zero_M = np.ones(12, dtype=np.float32), np.zeros(length, dtype=np.float32)
    return group.update(TrainBatch(sampler, old, zero_M, weight_N, float(length), reference), loss)


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


KL = LossConfig.model_validate({"kl": {"coefficient": 1.0, "estimator": "k2"}})


@pytest.mark.parametrize("stage", [1, 3])
def test_the_kl_is_zero_at_first_and_pulls_back_after_a_step(group, tiny_model, tokens, stage):
    reset(group, tiny_model, reference=tiny_model, zero_stage=stage)
    first = pull(group, tokens, KL)
    assert (first.kl_reference, first.gradient_norm) == pytest.approx((0, 0), abs=1e-5)
    start = group.reference_logprobs(tokens)
    np.testing.assert_allclose(start, reference_logprobs(tiny_model, tokens)[0], atol=2e-5)
    train(group, tokens, updates=3)
    np.testing.assert_array_equal(group.reference_logprobs(tokens), start)
    away = [pull(group, tokens, KL) for _ in range(8)]
    assert away[0].kl_reference > 1e-3 * tokens.response_tokens
    assert away[0].gradient_norm > 1e-3
    assert away[-1].kl_reference < 0.9 * away[0].kl_reference


def test_a_reference_of_its_own_is_read_and_gone_with_the_next_trial(group, tiny_model, tokens, tmp_path):
    reset(group, tiny_model)
    train(group, tokens, updates=3)
    group.save(tmp_path)
    reset(group, tiny_model, reference=tmp_path / "model")
    found = group.reference_logprobs(tokens)
    np.testing.assert_allclose(found, reference_logprobs(tmp_path / "model", tokens)[0], atol=2e-5)
    assert np.abs(found - group.forward(tokens).logprob_M).max() > 1e-3
    reset(group, tiny_model)
    with pytest.raises(StrategyError, match=r"loss\.kl\.coefficient.*without a reference"):
        group.reference_logprobs(tokens)


def test_a_reference_that_is_held_but_has_no_weight_changes_no_bit(group, tiny_model, tokens):
    results = []
    for reference, coefficient in ((None, 0.0), (tiny_model, 0.0), (tiny_model, 0.5)):
        reset(group, tiny_model, reference=reference)
        loss = LossConfig.model_validate({"kl": {"coefficient": coefficient}})
        train(group, tokens, loss=LossConfig())
        pull(group, tokens, loss)
        results.append(group.weights().arrays)
    plain, silent, pulled = results
    assert all(np.array_equal(plain[name], silent[name]) for name in plain)
    assert not all(np.array_equal(plain[name], pulled[name]) for name in plain)


def test_a_reference_of_fewer_token_ids_is_refused(group, tiny_model, tmp_path):
    from transformers import AutoModelForCausalLM

    small = AutoModelForCausalLM.from_pretrained(tiny_model)
    small.resize_token_embeddings(50)
    small.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"trial\.loss\.kl\.reference: .* knows 50 token ids and the policy"):
        reset(group, tiny_model, reference=tmp_path)


@pytest.mark.parametrize("stage", [1, 3])
def test_the_entropy_bonus_raises_the_entropy(group, tiny_model, tokens, stage):
    reset(group, tiny_model, zero_stage=stage)
    before = group.forward(tokens).entropy_M.mean()
    loss = LossConfig(entropy_bonus=1.0)
    for _ in range(3):
        stats = pull(group, tokens, loss)
    assert stats.loss < 0
    assert group.forward(tokens).entropy_M.mean() > before


@pytest.mark.parametrize("stage", [0, 2])
def test_gradient_products_are_of_the_whole_loss(group, tiny_model, tokens, stage):
    loss = LossConfig.model_validate({"kl": {"coefficient": 1.0}, "entropy_bonus": 0.1})
    reset(group, tiny_model, reference=tiny_model, zero_stage=stage, grad_clip=1e9)
    train(group, tokens)
    old, length = group.forward(tokens).logprob_M, tokens.response_tokens
    sampler = TokenBatch(tokens.prompt_length_N, tokens.response_length_N, tokens.token_S, old)
    zero_M, weight_N = np.zeros(length, dtype=np.float32), np.ones(12, dtype=np.float32)
    batch = TrainBatch(sampler, old, zero_M, weight_N, float(length), group.reference_logprobs(tokens))
    squares = group.gradient_products(batch, batch, loss)
    assert squares[0] > 0
    assert group.update(batch, loss).gradient_norm == pytest.approx(squares[2] ** 0.5, rel=1e-4)


class OneEngine:
    """An engine in this process, in the place of a slot's `EngineGroup`."""

    def __init__(self, model: Path) -> None:
        from trainables.rollouts.transformers_engine import TransformersEngine

        self._engine = TransformersEngine(str(model), EngineConfig(kind="transformers"), "float32")
        self.draw, self.reset = self._engine.draw, self._engine.reset

    def draw_on_each(self, request: Any) -> list[Any]:
        return [self.draw(request)]

    def update(self, learner: Any, version: int, timeout_s: float) -> Transfer:
        self._engine.load(learner.weights(), version)
        return Transfer(0, 0.0, 0.0)


def steps_of(group: Any, model: Path, folder: Path, **loss: Any) -> list[dict[str, float]]:
    """The metrics of each step of a small run, on processes of this test's own but for the judge's."""
    from transformers import AutoTokenizer

    steps = []

    def report(event: str, **fields: Any) -> bool:
        if event == "step":
            steps.append(fields["metrics"])
        return True

    settings = {
        "model": str(model),
        "strategy": {"preset": "grpo", "group_size": 4},
        "steps": 3,
        "rollouts_per_step": 16,
        "task": {"train_prompts": 16, "validation_prompts": 2},
        "learner": {"lr": 1e-3, "gradient_noise_every": 1},
        "engine": {"kind": "transformers"},
        "evaluation": {"every": 9, "samples": 1},
        "loss": loss,
    }
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    engine: Any = OneEngine(model)
    with Verifier(Addition.judge) as verifier:
        lease = Lease(str(model), tokenizer, group, engine, lambda *_: verifier, report)
        assert run_trial(lease, TrialConfig.model_validate(settings), 0, folder) == "finished"
    return steps


def test_a_run_measures_the_kl_to_the_weights_that_it_starts_from(group, tiny_model, tmp_path):
    plain = steps_of(group, tiny_model, tmp_path / "plain")
    held = steps_of(group, tiny_model, tmp_path / "held", kl={"coefficient": 1e-12, "estimator": "k2"})
    assert not any("kl_reference" in step for step in plain)
    assert held[0]["kl_reference"] == pytest.approx(0, abs=1e-8)
    assert held[-1]["kl_reference"] > 1e-4
    assert [step["reward"] for step in held] == [step["reward"] for step in plain]
