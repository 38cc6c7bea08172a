"""Supervised warm-up of the tiny model: from a recipe to a Hugging Face model directory."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from trainables.errors import ModelError
from trainables.models.recipe import Recipe
from trainables.models.tokenizer import EOS, PAD, VOCABULARY, character_tokenizer
from trainables.tasks.addition import STRATA, make_problem, part_codes

if TYPE_CHECKING:
    from trainables.tasks.base import Problem

PROMPT_TOKENS, ANSWER_TOKENS = 8, 5
"""Longest prompt (`999+999=`) and longest answer with its end (`1998` and EOS), in tokens."""
_IGNORED = -100


def write_model(recipe: Recipe, directory: Path) -> None:
    """Train the recipe's model from scratch on CPU in fp32, and save it with its tokenizer.

    Raises:
        ModelError: The target accuracy is not reached within the recipe's steps.
    """
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(recipe.seed)
        model = Qwen3ForCausalLM(model_config(recipe))
        _train(model, recipe)
    # The model's own save_pretrained would import DeepSpeed if that is installed, and log to the console.
    save_file(model.state_dict(), directory / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(directory)
    GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,  # if left out, transformers samples from the 50 likeliest tokens only
        eos_token_id=VOCABULARY[EOS],
        pad_token_id=VOCABULARY[PAD],
    ).save_pretrained(directory)
    character_tokenizer(recipe.max_position).save_pretrained(directory)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch to a single thread.

    Two threads halve the time on idle cores. On busy ones they spin at each other's barriers: a step took up
    to twenty times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def model_config(recipe: Recipe) -> Qwen3Config:
    """Return the architecture. Embeddings are untied: vLLM's CPU reload of tied ones is silently wrong."""
    return Qwen3Config(
        vocab_size=len(VOCABULARY),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        head_dim=recipe.head_dim,
        max_position_embeddings=recipe.max_position,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=VOCABULARY[EOS],
        pad_token_id=VOCABULARY[PAD],
        dtype="float32",
    )


def _train(model: Qwen3ForCausalLM, recipe: Recipe) -> None:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / recipe.lr_warmup_steps)
    )
    problems = _training_problems(recipe.seed)
    checked = [next(problems) for _ in range(recipe.check_prompts)]
    accuracy = 0.0
    for step in range(1, recipe.max_steps + 1):
        tokens, labels = _collate([next(problems) for _ in range(recipe.batch)])
        logits = model(input_ids=tokens).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
        optimizer.step()
        schedule.step()
        if step % recipe.check_every == 0:
            accuracy = sampled_accuracy(model, checked)
            if accuracy >= recipe.target_accuracy:
                return
    raise ModelError(
        f"target_accuracy: {recipe.target_accuracy} was not reached, {accuracy:.2f} of sampled answers are "
        f"right after max_steps={recipe.max_steps}; raise max_steps or lower target_accuracy"
    )


def _training_problems(seed: int) -> Iterator[Problem]:
    """Yield problems of the training part without end, strata equally likely."""
    rng = random.Random(seed)
    parts = [part_codes("train", stratum).tolist() for stratum in range(STRATA)]
    while True:
        yield make_problem(rng.choice(rng.choice(parts)))


def _collate(problems: list[Problem]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and labels, right-padded (B, T); only the answer and its end are labelled."""
    width = PROMPT_TOKENS + ANSWER_TOKENS
    tokens = torch.full((len(problems), width), VOCABULARY[PAD])
    labels = torch.full((len(problems), width), _IGNORED)
    for row, problem in enumerate(problems):
        prompt = [VOCABULARY[c] for c in problem.prompt]
        answer = [*(VOCABULARY[c] for c in problem.answer), VOCABULARY[EOS]]
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return tokens, labels


@torch.no_grad()
def sampled_accuracy(model: Qwen3ForCausalLM, problems: list[Problem]) -> float:
    """Return the expected share of problems whose answer, sampled at temperature 1, is right and ends.

    Teacher forcing gives it without sampling: the probability of the right answer is the product of its
    tokens' probabilities, and the mean over problems is exactly the expected accuracy.
    """
    tokens, labels = _collate(problems)
    logits = model(input_ids=tokens).logits[:, :-1]
    losses = functional.cross_entropy(
        logits.transpose(1, 2), labels[:, 1:], ignore_index=_IGNORED, reduction="none"
    )
    return float(torch.exp(-losses.sum(dim=1)).mean())
