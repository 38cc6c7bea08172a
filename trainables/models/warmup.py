"""Supervised warm-up of the tiny model: from a recipe to a Hugging Face model directory."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from trainables.models import slips
from trainables.models.recipe import Recipe
from trainables.models.tokenizer import EOS, PAD, VOCABULARY, character_tokenizer
from trainables.tasks import addition, sorting

Worked = tuple[str, str]
"""A prompt and a worked answer, right or wrong."""
OnStep = Callable[[int, float], None]
"""Called after each step with the number of steps done and the loss in nats per token."""

_IGNORED = -100


def write_model(recipe: Recipe, directory: Path, on_step: OnStep | None = None) -> None:
    """Train the recipe's model from scratch on CPU in fp32, and save it with its tokenizer and recipe."""
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(recipe.seed)
        model = Qwen3ForCausalLM(model_config(recipe))
        _train(model, recipe, on_step or (lambda step, loss: None))
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
    (directory / "recipe.json").write_text(recipe.text() + "\n")


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


def _train(model: Qwen3ForCausalLM, recipe: Recipe, on_step: OnStep) -> None:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_lr(step, recipe))
    additions, orderings = worked_additions(recipe), worked_orderings(recipe)
    for step in range(1, recipe.steps + 1):
        # A batch for each task: their lengths differ, and a padded token costs as much as any other.
        parts = [list(islice(additions, recipe.additions)), list(islice(orderings, recipe.orderings))]
        total = torch.zeros(())
        tokens = 0
        for part in parts:
            loss, labelled = _loss(model, part)
            total, tokens = total + loss, tokens + labelled
        optimizer.zero_grad()
        (total / tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
        optimizer.step()
        schedule.step()
        on_step(step, float(total.detach()) / tokens)


def _share_of_lr(step: int, recipe: Recipe) -> float:
    """Return the share of the learning rate at the step after `step` others: warm-up, then a cosine."""
    if step < recipe.lr_warmup_steps:
        return (step + 1) / recipe.lr_warmup_steps
    done = (step - recipe.lr_warmup_steps) / max(recipe.steps - recipe.lr_warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * done))


def worked_additions(recipe: Recipe) -> Iterator[Worked]:
    """Yield additions of the training part with worked answers, without end, strata equally likely."""
    rng = random.Random(recipe.seed)
    parts = [addition.part_codes("train", stratum).tolist() for stratum in range(addition.STRATA)]
    while True:
        a, b = divmod(rng.choice(rng.choice(parts)), 1000)
        yield f"{a}+{b}=", slips.addition(a, b, recipe.addition_slips, rng)


def worked_orderings(recipe: Recipe) -> Iterator[Worked]:
    """Yield problems of the sorting task's training part with worked answers, strata equally likely."""
    rng = random.Random(recipe.seed)
    while True:
        numbers = rng.sample(range(10, 100), rng.randint(sorting.FEWEST, sorting.MOST))
        if sorting.of_split(np.array([numbers], dtype=np.int64), "train")[0]:
            yield (
                sorting.make_problem(numbers).prompt,
                slips.sorting(numbers, recipe.sorting_slips, rng),
            )


def _loss(model: Qwen3ForCausalLM, worked: list[Worked]) -> tuple[torch.Tensor, int]:
    """Return the summed cross-entropy of the answers' tokens, and the number of these tokens."""
    tokens, labels = _collate(worked)
    logits = model(input_ids=tokens).logits[:, :-1].flatten(0, 1)
    targets = labels[:, 1:].flatten()
    loss = functional.cross_entropy(logits, targets, ignore_index=_IGNORED, reduction="sum")
    return loss, int((targets != _IGNORED).sum())


def _collate(worked: list[Worked]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and labels, right-padded (B, T); only the answer and its end are labelled."""
    rows = [
        ([VOCABULARY[c] for c in prompt], [*(VOCABULARY[c] for c in answer), VOCABULARY[EOS]])
        for prompt, answer in worked
    ]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    tokens = torch.full((len(rows), width), VOCABULARY[PAD])
    labels = torch.full((len(rows), width), _IGNORED)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return tokens, labels


@torch.no_grad()
def answer_probability(model: Qwen3ForCausalLM, prompts_and_answers: list[Worked]) -> list[float]:
    """Return, for each pair, the probability that the model samples just this answer at temperature 1.

    Teacher forcing gives it without sampling: it is the product of the tokens' probabilities.
    """
    tokens, labels = _collate(prompts_and_answers)
    logits = model(input_ids=tokens).logits[:, :-1]
    losses = functional.cross_entropy(
        logits.transpose(1, 2), labels[:, 1:], ignore_index=_IGNORED, reduction="none"
    )
    return [float(p) for p in torch.exp(-losses.sum(dim=1))]
