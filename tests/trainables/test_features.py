"""Pooled states against plain transformers: several architectures, ZeRO stages, micro-batches, windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.config import LearnerConfig
from trainables.learner.tokens import TokenBatch
from trainables.strategies.batch import FeatureNeeds
from trimtab.errors import StrategyError

END = 9
"""Stands for the closing think tag."""


def sizes(kind: str) -> dict[str, Any]:
    if kind == "gpt2":
        return {"n_embd": 96, "n_layer": 3, "n_head": 4, "vocab_size": 32, "n_positions": 64}
    shared = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    extra = {"head_dim": 24} if kind == "qwen3" else {}
    return {**shared, **extra, "intermediate_size": 64, "vocab_size": 32, "max_position_embeddings": 64}


@pytest.fixture(scope="module", params=["qwen3", "llama", "gpt2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of each style; no tokenizer needed."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, **sizes(request.param))
    folder = tmp_path_factory.mktemp(request.param)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokens() -> TokenBatch:
    """Rollouts of mixed lengths, shorter and longer than the window; END once, twice and not at all."""
    rng = np.random.default_rng(0)
    prompt = np.array([2, 4, 7, 12, 15, 3, 20, 5], dtype=np.int32)
    response = np.array([1, 8, 14, 6, 16, 11, 3, 13], dtype=np.int32)
    token = rng.integers(10, 32, int((prompt + response).sum())).astype(np.int32)
    start = np.cumsum(prompt + response) - prompt - response
    for row, places in {1: [3], 2: [2, 8], 4: [15], 7: [0]}.items():
        token[start[row] + prompt[row] + np.array(places)] = END
    token[start[3]] = END  # in a prompt: does not count
    return TokenBatch(prompt, response, token, np.zeros(int(response.sum()), dtype=np.float32))


def plan(**changes: Any) -> Any:
    from trainables.learner.features import FeaturePlan

    return FeaturePlan(**{"layer": 1, "window": 4, "end_tokens": (END,), "survey": 0, **changes})


def reference(model: Path, tokens: TokenBatch, window: int) -> tuple[np.ndarray, np.ndarray]:
    """States (N, L, 2, F) of `output_hidden_states` and entropy means (N, 3), each rollout alone."""
    import torch
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    found: list[torch.Tensor] = []
    blocks = policy.get_decoder()
    blocks = blocks.layers if hasattr(blocks, "layers") else blocks.h
    for block in blocks:
        block.register_forward_hook(lambda _m, _i, o: found.append(o[0] if isinstance(o, tuple) else o))
    states, entropies, at = [], [], 0
    for prompt, response in zip(tokens.prompt_length_N, tokens.response_length_N, strict=True):
        ids = tokens.token_S[at : at + prompt + response].astype(np.int64)
        at += prompt + response
        found.clear()
        with torch.no_grad():
            logits = policy(torch.from_numpy(ids)[None], use_cache=False).logits[0, prompt - 1 : -1]
        tags = np.flatnonzero(ids[prompt:] == END)
        end = int(tags[-1]) + 1 if len(tags) else int(response)
        layers = torch.stack([f[0] for f in found]).numpy()
        a = layers[:, max(0, prompt - window) : prompt].mean(axis=1)
        b = layers[:, prompt + max(0, end - window) : prompt + end].mean(axis=1)
        states.append(np.stack([a, b], axis=1))
        lp = torch.log_softmax(logits, -1)
        entropy = -(lp.exp() * lp).sum(-1).numpy()
        answer = entropy[end:].mean() if end < response else 0.0
        entropies.append([entropy.mean(), entropy[:end].mean() if len(tags) else 0.0, answer])
    return np.stack(states), np.array(entropies)


@pytest.mark.parametrize("micro_batch_tokens", [32, 8192])
def test_states_are_those_of_each_rollout_alone(group, model, tokens, micro_batch_tokens):
    group.reset(str(model), LearnerConfig(micro_batch_tokens=micro_batch_tokens), 1.0, 0)
    for window in (1, 4, 10):
        states, entropies = reference(model, tokens, window)
        found = group.forward(tokens, plan(window=window)).features
        np.testing.assert_allclose(found.prompt_NF, states[:, 1, 0], atol=2e-5)
        np.testing.assert_allclose(found.response_NF, states[:, 1, 1], atol=2e-5)
        np.testing.assert_allclose(found.survey_NL2K, states, atol=5e-3, rtol=5e-3)
        np.testing.assert_allclose(found.entropy_N3, entropies, atol=2e-5)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_states_do_not_depend_on_the_zero_stage(group, model, tokens, stage):
    group.reset(str(model), LearnerConfig(zero_stage=stage), 1.0, 0)
    states, _ = reference(model, tokens, 4)
    found = group.forward(tokens, plan()).features
    np.testing.assert_allclose(found.response_NF, states[:, 1, 1], atol=2e-5)
    # The hooks are gone afterwards, and a pass without a plan pools nothing.
    assert group.forward(tokens).features is None


def test_the_pass_itself_is_unchanged_and_the_survey_is_small(group, model, tokens):
    group.reset(str(model), LearnerConfig(), 1.0, 0)
    plain, hooked = group.forward(tokens), group.forward(tokens, plan(survey=64))
    assert np.array_equal(plain.logprob_M, hooked.logprob_M)
    features = hooked.features
    assert features.survey_NL2K.shape == (8, 3, 2, 64)
    assert features.survey_NL2K.dtype == np.float16
    assert features.nbytes == 8 * (2 * 96 * 4 + 3 * 4 + 3 * 2 * 64 * 2)
    only = group.forward(tokens, plan(survey=None)).features
    assert only.survey_NL2K is None
    assert np.array_equal(only.prompt_NF, features.prompt_NF)
    # A projection keeps distances roughly: rollouts near each other stay so.
    whole = group.forward(tokens, plan()).features.survey_NL2K[:, 2, 1].astype(np.float64)
    small = features.survey_NL2K[:, 2, 1].astype(np.float64)
    pairs = np.triu_indices(8, 1)
    far = [np.linalg.norm(x[:, None] - x[None], axis=-1)[pairs] for x in (whole, small)]
    assert np.corrcoef(far[0], far[1])[0, 1] > 0.8


def test_a_tag_of_several_tokens_counts_only_as_a_whole_and_inside_the_response():
    from trainables.learner.features import reasoning_length

    prompt, response = np.array([2, 2, 2], np.int32), np.array([4, 4, 4], np.int32)
    #                 tag ends in the response | begins in the prompt | torn over two rollouts
    token = np.array([1, 1, 5, 6, 1, 1, 1, 5, 6, 1, 1, 5, 6, 1, 1, 1, 1, 1], np.int32)
    batch = TokenBatch(prompt, response, token, np.zeros(12, np.float32))
    assert reasoning_length(batch, (5, 6)).tolist() == [2, 0, 0]
    assert reasoning_length(batch, ()).tolist() == [0, 0, 0]


def test_reasoning_that_does_not_end_has_no_entropy_and_no_answer():
    from trainables.learner.features import entropy_means

    entropy_M = np.array([1, 2, 3, 1, 2, 3, 1, 2, 3], np.float32)
    found = entropy_means(entropy_M, np.array([3, 3, 3], np.int32), np.array([2, 0, 3]))
    assert found.tolist() == [[2, 1.5, 3], [2, 0, 0], [2, 2, 0]]


@pytest.mark.parametrize(
    ("layer", "depth", "layers", "block"),
    [(None, 0.53, 36, 19), (None, 0.53, 4, 2), (None, 1.0, 4, 3), (0, 0.5, 4, 0), (3, 0.5, 4, 3)],
)
def test_the_default_layer_is_19_of_36(layer, depth, layers, block):
    from trainables.learner.features import block_of

    assert block_of(FeatureNeeds(depth=depth, layer=layer), layers) == block


@pytest.mark.parametrize("layer", [4, 99, -1])
def test_a_layer_beyond_the_depth_names_the_depth(layer):
    from trainables.learner.features import block_of

    with pytest.raises(StrategyError, match=rf"layer: {layer} is beyond.*4 decoder blocks, 0 to 3"):
        block_of(FeatureNeeds(layer=layer), 4)
