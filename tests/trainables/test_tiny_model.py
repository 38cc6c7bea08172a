"""The tiny model: what it is, what it can do, and that nothing but the shipped one is used."""

from __future__ import annotations

import json
import pkgutil
import re
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from trainables.config import TaskConfig
from trainables.models.recipe import Recipe
from trainables.models.resolve import check_model, resolve_model
from trainables.models.tiny import SHIPPED, build_tiny, check_hashes, ensure_tiny
from trainables.tasks.base import Split, Task
from trainables.tasks.load import load_task
from trimtab.errors import ModelError

SMALL = Recipe(
    hidden_size=32, intermediate_size=32, layers=1, heads=1, kv_heads=1, additions=8, orderings=4, steps=2
)
"""Built in a moment."""


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


def test_architecture(model: Any) -> None:
    assert model.config.architectures == ["Qwen3ForCausalLM"]
    assert 0.55e6 < model.num_parameters() < 0.65e6
    assert model.config.tie_word_embeddings is False
    assert model.get_input_embeddings().weight.data_ptr() != model.get_output_embeddings().weight.data_ptr()


def test_nothing_in_the_generation_config_bends_the_distribution(tiny_model: Path) -> None:
    settings = json.loads((tiny_model / "generation_config.json").read_text())
    settings.pop("transformers_version")
    neutral = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    assert settings == neutral | {"eos_token_id": 1, "pad_token_id": 0}


def test_tokenizer(tiny_model: Path, model: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert tokenizer.bos_token_id is None
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert len(tokenizer) == model.config.vocab_size
    text = "12+345=357 What is x?\n"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, 1, 0, 0], skip_special_tokens=True) == text


def answers(model: Any, tokenizer: Any, task: Task, split: Split) -> list[str]:
    """One sampled answer to each of the split's prompts."""
    import torch

    prompts = [problem.prompt for problem in task.split(split)]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=16)
    found: list[str] = tokenizer.batch_decode(
        output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return found


def rates(model: Any, tokenizer: Any, task: Task, split: Split, samples: int) -> Any:
    """How often each of the split's prompts is answered rightly, by sampling: (P,)."""
    import numpy as np
    import torch

    judge: Any = pkgutil.resolve_name(task.judge)
    torch.manual_seed(0)
    return np.mean(
        [
            [judge(a, p.answer) for a, p in zip(drawn, task.split(split), strict=True)]
            for drawn in (answers(model, tokenizer, task, split) for _ in range(samples))
        ],
        axis=0,
    )


@pytest.mark.parametrize(("name", "low", "high"), [("addition", 0.46, 0.58), ("sorting", 0.52, 0.65)])
def test_there_is_something_to_elicit(
    tiny_model: Path, model: Any, name: str, low: float, high: float
) -> None:
    """Half of the answers are wrong, prompts differ widely, and nearly every prompt has a right answer.

    On problems that the warm-up cannot have seen.
    """
    import numpy as np
    from transformers import AutoTokenizer

    task = load_task(TaskConfig(name=name, validation_prompts=256))
    rate_P = rates(model, AutoTokenizer.from_pretrained(tiny_model), task, "validation", 16)
    assert low < rate_P.mean() < high
    assert rate_P.std() > 0.22
    assert np.mean(rate_P > 0) > 0.95, "pass@16"


def test_probability_of_an_answer_is_what_sampling_gives(tiny_model: Path, model: Any) -> None:
    """Mean over 512 prompts within four standard errors of drawing for real."""
    from transformers import AutoTokenizer

    from trainables.models.warmup import answer_probability

    task = load_task(TaskConfig())
    known = answer_probability(model, [(p.prompt, p.answer) for p in task.split("validation")])
    drawn_P = rates(model, AutoTokenizer.from_pretrained(tiny_model), task, "validation", 2)
    assert sum(known) / 512 == pytest.approx(drawn_P.mean(), abs=4 * 0.5 / 1024**0.5)


def test_warm_up_sees_training_problems_only() -> None:
    from trainables.models.warmup import worked_additions, worked_orderings

    def unordered(prompt: str) -> tuple[str, ...]:
        return tuple(sorted(re.findall(r"\d+", prompt)))

    for name, worked in (("addition", worked_additions), ("sorting", worked_orderings)):
        config = TaskConfig(name=name, validation_prompts=4096, test_prompts=4096)
        held_out = {unordered(p.prompt) for s in ("validation", "test") for p in load_task(config).split(s)}
        seen = {unordered(prompt) for prompt, _ in islice(worked(Recipe()), 20_000)}
        assert seen
        assert not held_out & seen


def test_the_shipped_model_is_the_recipe_s_and_small() -> None:
    assert (SHIPPED / "recipe.json").read_text() == Recipe().text() + "\n"
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 3e6


def test_a_shipped_model_whose_hash_does_not_match_is_refused(tmp_path: Path) -> None:
    spoilt = tmp_path / "shipped"
    shutil.copytree(SHIPPED, spoilt)
    weights = bytearray((spoilt / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (spoilt / "model.safetensors").write_bytes(weights)
    with pytest.raises(ModelError, match=r"model\.safetensors of tiny in .* differs .*install trimtab again"):
        ensure_tiny(tmp_path / "cache", spoilt)
    assert not (tmp_path / "cache").exists()
    (spoilt / "hashes.json").unlink()
    with pytest.raises(ModelError, match="cannot be read in"):
        ensure_tiny(tmp_path / "cache", spoilt)


def test_a_spoilt_copy_is_refused_and_made_again_once_it_is_gone(tmp_path: Path) -> None:
    copy = ensure_tiny(tmp_path)
    (copy / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"config\.json of tiny in .* delete that folder"):
        ensure_tiny(tmp_path)
    shutil.rmtree(copy)
    assert ensure_tiny(tmp_path) == copy


def test_copied_once(tmp_path: Path) -> None:
    first = ensure_tiny(tmp_path)
    assert re.fullmatch(r"tiny-[0-9a-f]{12}", first.name)
    written = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    assert ensure_tiny(tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} == written


def test_same_recipe_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    seen: list[int] = []
    for name, recipe in (("one", SMALL), ("two", SMALL), ("three", replace(SMALL, seed=1))):
        build_tiny(tmp_path / name, recipe, lambda step, loss: seen.append(step))
    one, two, three = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two", "three")
    )
    assert one == two
    assert one != three
    assert seen == [1, 2] * 3
    assert check_hashes(tmp_path / "one", "")["model.safetensors"]
    assert SMALL.digest() != replace(SMALL, seed=1).digest()
    with pytest.raises(ModelError, match=r"DIRECTORY: .*one' exists already"):
        build_tiny(tmp_path / "one", SMALL)


@pytest.mark.slow
def test_a_short_warm_up_writes_what_the_shipped_model_writes_before_it_is_right(
    tmp_path: Path, model: Any
) -> None:
    """Behaviour and not bits: a twentieth of the steps gives answers of the right form, few of them right."""
    import numpy as np
    from transformers import AutoModelForCausalLM, AutoTokenizer

    losses: list[float] = []
    recipe = Recipe(additions=128, orderings=32, steps=150)
    build_tiny(tmp_path / "short", recipe, lambda step, loss: losses.append(loss))
    assert np.mean(losses[-20:]) < 0.4 * np.mean(losses[:5])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "short")
    short = AutoModelForCausalLM.from_pretrained(tmp_path / "short")
    task = load_task(TaskConfig(validation_prompts=128))
    formed, right = [], []
    for one in (short, model):
        found = answers(one, tokenizer, task, "validation")
        formed.append(np.mean([re.fullmatch(r"[0-9]{1,4}", text) is not None for text in found]))
        right.append(rates(one, tokenizer, task, "validation", 2).mean())
    assert formed[0] > 0.9
    assert formed[1] > 0.99
    assert right[0] < right[1] - 0.2


def test_resolve(tmp_path: Path, tiny_model: Path) -> None:
    assert resolve_model("tiny", tiny_model.parent) == tiny_model
    assert resolve_model(str(tiny_model), tmp_path) == tiny_model
    assert resolve_model("Qwen/Qwen3-0.6B", tmp_path) == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize("path", ["no-such-model", "/no/such/model", "./model", "~/no-such-model", "a/b/c"])
def test_a_path_that_does_not_exist(path: str) -> None:
    with pytest.raises(ModelError, match=rf"model: '{path}' does not exist; give 'tiny'"):
        check_model(path)


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json; give the directory that `save_pretrained`"):
        check_model(str(tmp_path))
