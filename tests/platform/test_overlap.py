"""Files whose splits share problems: said in the plan, and refused before any command starts anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from trimtab import api
from trimtab.cli.main import main
from trimtab.decide.promoted import Promoted
from trimtab.errors import SpecError
from trimtab.planning.machine import GB, Machine
from trimtab.planning.placement import Cluster, Node, plan_on
from trimtab.sweepspec.load import load_spec

SHARED = 3


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    """A task with 50 training, 20 validation and 10 test problems; 3 of the validation's are in train."""
    made = {
        "train": [f"What is ${i} + 1$?" for i in range(50)],
        "validation": [*(f"what is {i}+1" for i in range(17)), *(f"What is {i} + 1" for i in range(SHARED))],
        "test": [f"What is {i} * 7?" for i in range(10)],
    }
    for split, questions in made.items():
        rows = (json.dumps({"question": question, "answer": "1"}) + "\n" for question in questions)
        (tmp_path / f"{split}.jsonl").write_text("".join(rows))
    task = ", ".join(f"{split}: {tmp_path / f'{split}.jsonl'}" for split in made)
    return [f"home={tmp_path / 'home'}", f"trial.task={{name: math, {task}}}"]


def trimtab(command: str, overrides: list[str], *arguments: str) -> Result:
    sets = [part for override in overrides for part in ("--set", override)]
    return CliRunner().invoke(main, [command, "quickstart", *sets, *arguments])


@pytest.mark.parametrize("command", ["plan", "sweep"])
def test_too_much_overlap_is_one_message_and_exit_code_two(
    tmp_path: Path, overrides: list[str], command: str
) -> None:
    done = trimtab(command, overrides)
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    assert done.output.count("\n") == 1
    for part in (
        "Error: trial.task.overlap_limit: 0.01 allows 1 %",
        f"{SHARED} of the validation problems ({tmp_path / 'validation.jsonl'}) are in train",
        f"({tmp_path / 'train.jsonl'}) as well, 0 of them character by character: 15 %",
        "'What is 0 + 1', 'What is 1 + 1', 'What is 2 + 1'",
        "Remove these problems from one of the files, or raise the limit",
    ):
        assert part in done.output
    assert not (tmp_path / "home").exists()


def test_the_plan_says_what_is_shared(overrides: list[str]) -> None:
    overrides.append("trial.task.overlap_limit=0.15")
    done = trimtab("plan", overrides)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.replace("│", " ").split())
    assert "data train 50, validation 20, test 10 problems overlap with train: validation 0 exact," in said
    assert "3 normalised (15 %); test 0" in said
    data = json.loads(trimtab("plan", overrides, "--json").output)["data"]
    assert data["parts"][0] == {"split": "train", "problems": 50, "repeated": 0}
    assert [pair["rate"] for pair in data["pairs"]] == [0.15, 0.0, 0.0]


def test_the_built_in_task_has_nothing_to_compare() -> None:
    plan = api.plan("quickstart")
    assert plan.data is None


@pytest.mark.parametrize("capacity", [None, Machine(64.0, 0, 256 * GB)])
def test_a_driver_on_a_cluster_refuses_too(overrides: list[str], capacity: Machine | None) -> None:
    cluster = Cluster((Node("head", {"CPU": 64.0, "memory": float(256 * GB)}),))
    with pytest.raises(SpecError, match=r"trial\.task\.overlap_limit"):
        plan_on(load_spec("quickstart", overrides), cluster, capacity)


def test_a_training_is_refused_too(tmp_path: Path, overrides: list[str]) -> None:
    """Production may name another training file; it is the one that is compared."""
    spec = load_spec("quickstart", [*overrides, "trial.task.overlap_limit=1.0"])
    trial: dict[str, Any] = spec.reference_config().model_dump(mode="json")
    trial["task"] |= {"train": "no-owner/no-data", "overlap_limit": 0.01}
    production = {"train": str(tmp_path / "train.jsonl")}
    promoted = Promoted.model_validate({"name": "mine", "trial": trial, "production": production})
    with pytest.raises(SpecError, match=r"trial\.task\.overlap_limit: .*train\.jsonl"):
        api.train(promoted, tmp_path / "home")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("limit", ["-0.1", "1.1", "nan"])
def test_the_limit_is_a_share(overrides: list[str], limit: str) -> None:
    with pytest.raises(SpecError, match=r"trial\.task\.overlap_limit"):
        load_spec("quickstart", [*overrides, f"trial.task.overlap_limit={limit}"])
