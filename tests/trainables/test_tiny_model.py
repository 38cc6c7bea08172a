"""The tiny model: what it is, how well it adds, and that its cache is safe to share."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trainables.config import TaskConfig
from trainables.models.recipe import Recipe
from trainables.models.resolve import check_model, resolve_model
from trainables.models.tiny import ensure_tiny
from trainables.tasks.load import load_task
from trimtab.errors import ModelError

SMALL = Recipe(
    hidden_size=32, intermediate_size=32, layers=1, heads=1, kv_heads=1, batch=8, target_accuracy=0.0
)
"""Built in a moment: every accuracy is good enough."""


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


@pytest.mark.parametrize("split", ["validation", "test"])
def test_about_half_of_the_answers_are_right(model: Any, split: Any) -> None:
    """On problems that the warm-up cannot have seen."""
    from trainables.models.warmup import sampled_accuracy

    assert 0.40 < sampled_accuracy(model, list(load_task(TaskConfig()).split(split))) < 0.60


def test_the_computed_accuracy_is_what_sampling_gives(tiny_model: Path, model: Any) -> None:
    """`sampled_accuracy` does not sample; draw answers for real and compare within four standard errors."""
    import torch
    from transformers import AutoTokenizer

    from trainables.models.warmup import sampled_accuracy

    problems = list(load_task(TaskConfig()).split("validation"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    inputs = tokenizer([problem.prompt for problem in problems], return_tensors="pt", padding=True)
    torch.manual_seed(0)
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=8)
    answers = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    right = sum(answer == problem.answer for answer, problem in zip(answers, problems, strict=True))
    assert right / len(problems) == pytest.approx(sampled_accuracy(model, problems), abs=4 * 0.5 / 512**0.5)


def test_warm_up_sees_training_problems_only() -> None:
    from itertools import islice

    from trainables.models.warmup import _training_problems

    config = TaskConfig(validation_prompts=100_000, test_prompts=100_000)
    held_out = {p.prompt for split in ("validation", "test") for p in load_task(config).split(split)}
    assert not held_out & {problem.prompt for problem in islice(_training_problems(0), 50_000)}


def test_cached_by_recipe(tmp_path: Path) -> None:
    first = ensure_tiny(tmp_path, SMALL)
    assert re.fullmatch(r"tiny-[0-9a-f]{12}", first.name)
    written = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    assert ensure_tiny(tmp_path, SMALL) == first
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} == written
    other = ensure_tiny(tmp_path, replace(SMALL, seed=1))
    assert other != first
    assert (other / "model.safetensors").read_bytes() != (first / "model.safetensors").read_bytes()


def test_same_recipe_same_weights(tmp_path: Path) -> None:
    one, two = (ensure_tiny(tmp_path / name, SMALL) / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_an_accuracy_out_of_reach_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"target_accuracy: 0\.9 was not reached, 0\.0.* max_steps=2; raise"):
        ensure_tiny(tmp_path, replace(SMALL, target_accuracy=0.9, max_steps=2))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


BUILD = """
import sys
from pathlib import Path
import trainables.models.warmup as warmup
from tests_recipe import SMALL
from trainables.models.tiny import ensure_tiny

write = warmup.write_model
def write_and_tell(recipe, directory):
    print("building", flush=True)
    if "die" in sys.argv:
        directory.joinpath("config.json").touch()
        print("half done", flush=True)
        sys.stdin.read()
    write(recipe, directory)
warmup.write_model = write_and_tell
print(ensure_tiny(Path(sys.argv[1]), SMALL).name, flush=True)
"""


def build(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    (tmp_path / "tests_recipe.py").write_text(
        f"from trainables.models.recipe import Recipe\nSMALL = {SMALL!r}\n"
    )
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    command = [sys.executable, str(script), str(tmp_path / "cache"), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_processes_build_once(tmp_path: Path) -> None:
    with build(tmp_path) as one, build(tmp_path) as two:
        lines = one.communicate()[0].split() + two.communicate()[0].split()
    name = f"tiny-{SMALL.digest()}"
    assert sorted(lines) == ["building", name, name]


def test_a_build_that_is_killed_does_not_count(tmp_path: Path) -> None:
    with build(tmp_path, "die") as killed:
        assert killed.stdout is not None
        assert [killed.stdout.readline() for _ in range(2)] == ["building\n", "half done\n"]
        killed.kill()
    cache = tmp_path / "cache"
    assert ensure_tiny(cache, SMALL).is_dir()
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [f"tiny-{SMALL.digest()}"]


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
