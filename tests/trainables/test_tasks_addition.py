"""The addition task: disjoint, deterministic splits over nine strata."""

from __future__ import annotations

from collections import Counter

import pytest

from trainables.config import TaskConfig
from trainables.tasks.addition import STRATA, part_codes
from trainables.tasks.base import Task
from trainables.tasks.load import load_task
from trainables.verifier.judge_exact import exact_match
from trimtab.errors import SpecError

SPLITS = ("train", "validation", "test")


def unordered(prompt: str) -> tuple[int, int]:
    a, b = prompt.rstrip("=").split("+")
    return min(int(a), int(b)), max(int(a), int(b))


def test_prompts_and_answers() -> None:
    task = load_task(TaskConfig())
    assert isinstance(task, Task)
    for name in SPLITS:
        problems = task.split(name)
        assert len(problems) == 512
        assert len({problem.prompt for problem in problems}) == 512
        for problem in problems:
            a, b = problem.prompt.removesuffix("=").split("+")
            assert problem.answer == str(int(a) + int(b))
            assert problem.stratum == (len(a) - 1) * 3 + len(b) - 1


def test_every_stratum_takes_its_share() -> None:
    for name in SPLITS:
        counts = Counter(problem.stratum for problem in load_task(TaskConfig()).split(name))
        assert sorted(counts) == list(range(STRATA))
        # 1 x 1 digits has 100 problems for all splits together; the others share evenly what it cannot give.
        others = [counts[stratum] for stratum in range(1, STRATA)]
        assert max(others) - min(others) <= 1
        assert counts[0] <= min(others)


def test_splits_stay_apart_across_data_seeds_and_swapped_operands() -> None:
    """Also with 2,000 prompts each: a problem's split is a property of the problem."""
    seen: dict[tuple[int, int], str] = {}
    for seed in (0, 1, 2):
        config = TaskConfig(data_seed=seed, train_prompts=2000, validation_prompts=2000, test_prompts=2000)
        for name in SPLITS:
            for problem in load_task(config).split(name):
                assert seen.setdefault(unordered(problem.prompt), name) == name


def test_parts_cover_every_problem_once() -> None:
    codes = [int(code) for name in SPLITS for stratum in range(STRATA) for code in part_codes(name, stratum)]
    assert sorted(codes) == list(range(1000 * 1000))


def test_data_seed_decides_the_prompts() -> None:
    first, again, other = (load_task(TaskConfig(data_seed=seed)).split("train") for seed in (0, 0, 1))
    assert list(first) == list(again)
    assert set(first) != set(other)
    # A pin: prompts must not change with a NumPy version, or old results compare with nothing.
    assert [problem.prompt for problem in first[:3]] == PINNED


PINNED = ["7+930=", "785+560=", "664+292="]


def test_a_short_prefix_holds_all_strata() -> None:
    problems = load_task(TaskConfig()).split("validation")[:128]
    assert {problem.stratum for problem in problems} == set(range(STRATA))


def test_more_prompts_than_problems() -> None:
    task = load_task(TaskConfig(test_prompts=400_000))
    with pytest.raises(SpecError, match=r"task\.test_prompts: 400000 is more than the \d+ .*lower it to"):
        task.split("test")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "adition",
            r"task\.name: .adition. is unknown; use one of addition, sorting, math, or",
        ),
        ("nowhere.at_all:Task", r"task\.name: 'nowhere.at_all:Task' cannot be imported"),
        ("trainables.tasks.addition:Multiplication", r"has no 'Multiplication'; check the spelling"),
        ("trainables.tasks.addition:STRATA", r"gave a int, which lacks `judge` or `split`"),
    ],
)
def test_a_name_that_leads_nowhere(name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_task(TaskConfig(name=name))


def test_unknown_split() -> None:
    with pytest.raises(SpecError, match="split: 'dev' is unknown"):
        load_task(TaskConfig()).split("dev")  # type: ignore[arg-type]


def test_exact_match() -> None:
    assert exact_match("357", "357") == 1.0
    assert exact_match(" 357\n", "357") == 1.0
    assert exact_match("0357", "357") == 0.0
    assert exact_match("", "357") == 0.0
