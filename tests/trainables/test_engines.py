"""vLLM and plain transformers behind one interface: exact log-probs, exact reloads, no stale cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.config import EngineConfig
from trainables.rollouts.engine import Completions, DrawRequest, eos_token_ids
from trainables.weight_sync.weights import Weights

TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module", params=["vllm", "transformers"])
def engine(request: pytest.FixtureRequest, tiny_model: Path) -> Any:
    """Something with draw and load: the session slot's vLLM actor, or transformers in this process."""
    if request.param == "transformers":
        from trainables.rollouts.transformers_engine import TransformersEngine

        return TransformersEngine(str(tiny_model), EngineConfig(kind="transformers", max_model_len=320))
    from trainables.rollouts.group import EngineGroup

    return EngineGroup(request.getfixturevalue("bench").slots.engines)


def weights_of(policy: Any, noise: float, seed: int = 0) -> tuple[Weights, Any]:
    """The policy with noise in every parameter, as weights and as a model."""
    import copy

    import torch

    other = copy.deepcopy(policy)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return Weights({n: p.detach().numpy() for n, p in other.named_parameters()}, "float32"), other


def request(prompts: list[list[int]], seed: int = 0, **changes: Any) -> DrawRequest:
    n = len(prompts)
    return DrawRequest(
        prompts=prompts,
        seed_R=np.arange(n, dtype=np.int64) + seed,
        temperature_R=changes.get("temperature", np.full(n, TEMPERATURE)),
        max_tokens_R=changes.get("max_tokens", np.full(n, 8, dtype=np.int64)),
        min_tokens_R=changes.get("min_tokens"),
    )


def worst_difference(policy: Any, prompts: list[list[int]], completions: Completions) -> float:
    """Largest difference between the engine's log-probs and plain transformers' on the same tokens."""
    import torch

    worst, at = 0.0, 0
    for prompt, response in zip(prompts, completions.responses(), strict=True):
        ids = torch.tensor([*prompt, *response.tolist()])
        with torch.no_grad():
            logits = policy(ids[None]).logits[0, len(prompt) - 1 : -1] / TEMPERATURE
        exact = torch.log_softmax(logits, -1).gather(1, ids[len(prompt) :, None])[:, 0].numpy()
        worst = max(worst, float(np.abs(exact - completions.logprob_M[at : at + len(response)]).max()))
        at += len(response)
    return worst


PROMPTS = [[5, 6, 4, 13, 7, 8, 14], [8, 9, 10, 13, 4, 5, 6, 14], [4, 13, 4, 14]] * 4
"""Additions in the tiny tokenizer's ids: 0 is 3, + is 13, = is 14."""


def test_log_probs_are_exact_after_every_reload(engine, policy):
    for version, noise in enumerate([0.0, 0.05, 0.02]):
        weights, other = weights_of(policy, noise, seed=version)
        engine.load(weights, version)
        completions = engine.draw(request(PROMPTS))
        assert completions.version == version
        assert worst_difference(other, PROMPTS, completions) < 1e-4


def test_a_prompt_cached_under_old_weights_is_not_reused(engine, policy):
    prompt = list(np.random.default_rng(0).integers(2, 16, 200))
    prompts = [[int(t) for t in prompt]] * 3
    for version, noise in ((10, 0.0), (11, 0.05)):
        weights, other = weights_of(policy, noise)
        engine.load(weights, version)
        for _ in range(2):  # the second draw hits the prefix cache
            assert worst_difference(other, prompts, engine.draw(request(prompts))) < 1e-4


def test_same_seed_same_tokens_whatever_the_neighbours(engine, policy):
    engine.load(weights_of(policy, 0.0)[0], 20)
    together = engine.draw(request(PROMPTS))
    again = engine.draw(request(PROMPTS))
    assert np.array_equal(together.token_M, again.token_M)
    alone = engine.draw(request(PROMPTS).take(np.array([3])))
    assert np.array_equal(alone.token_M, together.responses()[3])
    other = engine.draw(request(PROMPTS, seed=1000))
    assert not np.array_equal(other.token_M, together.token_M)


def test_sampling_follows_the_policys_distribution(engine, policy):
    import torch

    engine.load(weights_of(policy, 0.0)[0], 21)
    prompt, n = [8, 9, 10, 13, 4, 5, 6, 14], 2000
    completions = engine.draw(request([prompt] * n, max_tokens=np.ones(n, dtype=np.int64)))
    with torch.no_grad():
        expected = torch.softmax(policy(torch.tensor([prompt])).logits[0, -1] / TEMPERATURE, -1).numpy()
    counts = np.bincount(completions.token_M, minlength=len(expected))
    likely = expected > 0.01
    error = np.sqrt(expected * (1 - expected) / n)
    assert (np.abs(counts / n - expected)[likely] < 5 * error[likely]).all()


def test_greedy_rows_take_the_most_likely_token(engine, policy):
    import torch

    engine.load(weights_of(policy, 0.0)[0], 22)
    completions = engine.draw(request(PROMPTS, temperature=np.zeros(len(PROMPTS))))
    for prompt, response in zip(PROMPTS, completions.responses(), strict=True):
        with torch.no_grad():
            logits = policy(torch.tensor([prompt])).logits[0, -1]
        assert int(logits.argmax()) == int(response[0])


def test_lengths_stop_at_end_of_sequence_or_at_the_limit(engine, policy, tiny_model):
    engine.load(weights_of(policy, 0.0)[0], 23)
    limit = np.array([1, 2, 8] * 4, dtype=np.int64)
    completions = engine.draw(request(PROMPTS, max_tokens=limit))
    eos = eos_token_ids(str(tiny_model))
    for response, most, finished in zip(completions.responses(), limit, completions.finished_R, strict=True):
        ended = response[-1] in eos
        assert finished == ended
        assert len(response) == most or ended
        assert not np.isin(response[:-1], eos).any()


def test_minimum_length_holds_for_benchmarks(engine, policy):
    engine.load(weights_of(policy, 0.0)[0], 24)
    n = len(PROMPTS)
    completions = engine.draw(request(PROMPTS, min_tokens=np.full(n, 8), max_tokens=np.full(n, 8)))
    assert (completions.length_R == 8).all()
