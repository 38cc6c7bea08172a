"""The sorting task: disjoint, deterministic splits, and a judge that takes any right order."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.config import TaskConfig
from trainables.models.slips import SortingSlips, sorting
from trainables.tasks.base import Task
from trainables.tasks.load import load_task
from trainables.tasks.sorting import make_problem
from trainables.verifier.judge_order import by_last_digit
from trimtab.errors import SpecError

SPLITS = ("train", "validation", "test")
NUMBERS = st.lists(st.integers(10, 99), min_size=2, max_size=5, unique=True)


def numbers(prompt: str) -> list[int]:
    return [int(part) for part in prompt.removesuffix(">").split(",")]


def test_prompts_answers_and_strata() -> None:
    task = load_task(TaskConfig(name="sorting"))
    assert isinstance(task, Task)
    for name in SPLITS:
        problems = task.split(name)
        assert len({problem.prompt for problem in problems}) == len(problems) == 512
        assert Counter(problem.stratum for problem in problems) == dict.fromkeys(range(4), 128)
        for problem in problems:
            given = numbers(problem.prompt)
            assert len(set(given)) == len(given) == problem.stratum + 2
            assert by_last_digit(problem.answer, problem.answer) == 1.0


def test_splits_stay_apart_whatever_the_seed_and_the_order() -> None:
    seen: dict[tuple[int, ...], str] = {}
    for seed in (0, 1):
        sizes = {"train_prompts": 4096, "validation_prompts": 4096, "test_prompts": 4096}
        task = load_task(TaskConfig(name="sorting", data_seed=seed, **sizes))
        for name in SPLITS:
            assert len(task.split(name)) == 4096
            for problem in task.split(name):
                assert seen.setdefault(tuple(sorted(numbers(problem.prompt))), name) == name


def test_data_seed_decides_the_prompts() -> None:
    first, again, other = (
        load_task(TaskConfig(name="sorting", data_seed=seed)).split("train") for seed in (0, 0, 1)
    )
    assert list(first) == list(again)
    assert set(first) != set(other)
    # A pin: prompts must not change with a NumPy version, or old results compare with nothing.
    assert [problem.prompt for problem in first[:3]] == PINNED


PINNED = ["90,40,92,86>", "50,30>", "93,71,98>"]


def test_more_prompts_than_the_task_makes() -> None:
    with pytest.raises(SpecError, match=r"task\.test_prompts: 4097 is more than the 4096 .*at most 4096"):
        load_task(TaskConfig(name="sorting", test_prompts=4097)).split("test")


@given(NUMBERS, st.randoms())
def test_any_right_order_is_right_and_no_other(given: list[int], rng: Random) -> None:
    reference = make_problem(given).answer
    shuffled = list(given)
    rng.shuffle(shuffled)
    right = [n % 10 for n in shuffled] == sorted(n % 10 for n in given)
    assert by_last_digit(",".join(map(str, shuffled)), reference) == float(right)
    ties = sorted(shuffled, key=lambda n: n % 10)
    assert by_last_digit(" " + ",".join(map(str, ties)) + "\n", reference) == 1.0


@pytest.mark.parametrize(
    "response", ["", "41,21", "41,21,73,73", "21,41,72", "41;21;73", "41,21,73,", "a,b,c", "41,,21,73"]
)
def test_what_is_not_an_order_of_the_numbers_is_wrong(response: str) -> None:
    assert by_last_digit(response, "41,21,73") == 0.0


@given(NUMBERS, st.randoms(use_true_random=False))
def test_worked_answers_hold_the_numbers_and_are_right_without_slips(given: list[int], rng: Random) -> None:
    reference = make_problem(given).answer
    never = SortingSlips(key=(0, 0, 0, 0), swap=(0, 0, 0, 0))
    assert by_last_digit(sorting(given, never, rng), reference) == 1.0
    always = SortingSlips(key=(1, 1, 1, 1), swap=(0, 0, 0, 0))
    assert sorting(given, always, rng) == ",".join(map(str, sorted(given)))
