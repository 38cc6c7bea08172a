"""Worked answers with slips: what the tiny model learns from in its warm-up.

Reinforcement learning with verifiable rewards sharpens what pre-training has mixed: right and wrong ways of
reasoning. So the warm-up's answers follow the right way for some prompts and one of several wrong ways for
others, more often where a prompt is harder. Pass rates then differ between prompts for a reason that a prior
can learn, and the right way is in the model to be found.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

Slips = tuple[float, ...]
"""Probability of a slip by how hard the prompt is, from easy to hard."""


@dataclass(frozen=True)
class AdditionSlips:
    """How often an addition goes wrong, and how."""

    carry: Slips = (0.0, 0.4, 0.65, 0.8)
    """All carries are forgotten, in a sum that has 0, 1, 2 or 3 of them."""
    align: Slips = (0.0, 0.25, 0.4)
    """Operands are written left-aligned, whose lengths differ by 0, 1 or 2 digits."""
    digit: float = 0.05
    """One digit of the answer is one too high or too low, whatever the sum."""


@dataclass(frozen=True)
class SortingSlips:
    """How often an ordering goes wrong, and how."""

    key: Slips = (0.25, 0.4, 0.5, 0.6)
    """The whole numbers are ordered and not their last digits, with 2, 3, 4 or 5 of them."""
    swap: Slips = (0.05, 0.05, 0.1, 0.1)
    """Two neighbours of the answer change places."""


def carries(a: int, b: int) -> int:
    """Count the carries of `a + b`."""
    count = carry = 0
    while a or b or carry:
        carry = int(a % 10 + b % 10 + carry > 9)
        count += carry
        a, b = a // 10, b // 10
    return count


def addition(a: int, b: int, slips: AdditionSlips, rng: random.Random) -> str:
    """Return a worked answer to `a + b`, right or wrong."""
    short, long = sorted((a, b))
    apart = len(str(long)) - len(str(short))
    if rng.random() < slips.align[apart]:
        short *= 10**apart
    if rng.random() < slips.carry[min(carries(short, long), len(slips.carry) - 1)]:
        answer = str(_without_carries(short, long))
    else:
        answer = str(short + long)
    if rng.random() < slips.digit:
        place = rng.randrange(len(answer))
        wrong = (int(answer[place]) + rng.choice((1, 9))) % 10
        answer = f"{answer[:place]}{wrong}{answer[place + 1 :]}"
    return answer


def _without_carries(a: int, b: int) -> int:
    total, place = 0, 1
    while a or b:
        total += (a % 10 + b % 10) % 10 * place
        a, b, place = a // 10, b // 10, place * 10
    return total


def sorting(numbers: list[int], slips: SortingSlips, rng: random.Random) -> str:
    """Return a worked order of the numbers by their last digits, right or wrong.

    Numbers that share a last digit stand in random order.
    """
    hard = len(numbers) - 2
    by_value = rng.random() < slips.key[hard]
    ordered = sorted(numbers, key=lambda number: (number if by_value else number % 10, rng.random()))
    if rng.random() < slips.swap[hard]:
        place = rng.randrange(len(ordered) - 1)
        ordered[place], ordered[place + 1] = ordered[place + 1], ordered[place]
    return ",".join(map(str, ordered))
