"""Slips of worked additions: what each kind does, and how often."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.models.slips import AdditionSlips, addition, carries

NONE = AdditionSlips(carry=(0, 0, 0, 0), align=(0, 0, 0), digit=0)
OPERAND = st.integers(0, 999)


@given(OPERAND, OPERAND)
def test_without_slips_every_answer_is_right(a: int, b: int) -> None:
    assert addition(a, b, NONE, random.Random(0)) == str(a + b)


@pytest.mark.parametrize(
    ("a", "b", "count"),
    [(1, 2, 0), (5, 5, 1), (99, 1, 2), (999, 1, 3), (555, 555, 3), (190, 20, 1), (0, 0, 0)],
)
def test_carries(a: int, b: int, count: int) -> None:
    assert carries(a, b) == count == carries(b, a)


@pytest.mark.parametrize(("a", "b", "wrong"), [(58, 67, "15"), (999, 1, "990"), (5, 5, "0"), (12, 34, "46")])
def test_forgotten_carries(a: int, b: int, wrong: str) -> None:
    forgets = AdditionSlips(carry=(1, 1, 1, 1), align=(0, 0, 0), digit=0)
    assert addition(a, b, forgets, random.Random(0)) == wrong


@pytest.mark.parametrize(
    ("a", "b", "wrong"), [(345, 12, "465"), (12, 345, "465"), (7, 100, "800"), (3, 4, "7")]
)
def test_operands_aligned_on_the_left(a: int, b: int, wrong: str) -> None:
    aligns = AdditionSlips(carry=(0, 0, 0, 0), align=(1, 1, 1), digit=0)
    assert addition(a, b, aligns, random.Random(0)) == wrong


@given(OPERAND, OPERAND, st.integers(0, 100))
def test_a_slipped_digit_is_one_off(a: int, b: int, seed: int) -> None:
    slips = AdditionSlips(carry=(0, 0, 0, 0), align=(0, 0, 0), digit=1)
    right, found = str(a + b), addition(a, b, slips, random.Random(seed))
    assert len(found) == len(right)
    (pair,) = [(int(x), int(y)) for x, y in zip(right, found, strict=True) if x != y]
    assert (pair[1] - pair[0]) % 10 in (1, 9)


def test_how_often_follows_the_recipe() -> None:
    slips, rng = AdditionSlips(), random.Random(0)
    right = sum(addition(58, 67, slips, rng) == "125" for _ in range(4000)) / 4000
    expected = (1 - slips.carry[2]) * (1 - slips.digit)
    assert right == pytest.approx(expected, abs=4 * 0.5 / 4000**0.5)
