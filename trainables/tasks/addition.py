"""The built-in task: add two numbers of one to three digits, in plain decimal.

A hash of the unordered operands fixes which split a problem may serve. So `12+345` and `345+12` are always in
the same split, and the tiny model's warm-up, which uses the training part only, has seen no validation or
test problem of any `data_seed`. The `data_seed` only draws the prompts of a split from its part.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from trainables.errors import SpecError
from trainables.tasks.base import Problem, Split
from trainables.tasks.hashing import Codes, may_serve, mix
from trainables.tasks.made import Made

DIGITS = 3
STRATA = DIGITS * DIGITS
"""One stratum per pair of operand lengths: (1,1) is 0, (1,2) is 1, ..., (3,3) is 8."""

_NUMBERS = 10**DIGITS


class Addition(Made):
    """Mixed one- to three-digit addition in nine strata of nearly equal size, judged by exact match."""

    judge = "trainables.verifier.judge_exact:exact_match"

    def draw(self, name: Split, size: int, seed: int) -> Sequence[Problem]:
        """Draw problems; the same ones for the same arguments."""
        return _draw(name, size, seed)


@lru_cache(maxsize=16)
def _draw(name: Split, size: int, seed: int) -> tuple[Problem, ...]:
    members = [part_codes(name, stratum) for stratum in range(STRATA)]
    counts = _shares(size, [len(codes) for codes in members])
    if sum(counts) < size:
        raise SpecError(
            f"task.{name}_prompts: {size} is more than the {sum(counts)} {name} problems of the addition "
            f"task; lower it to at most {sum(counts)}"
        )
    chosen = np.concatenate(
        [
            codes[np.argsort(mix(codes, salt=2 * seed + 1), kind="stable")][:count]
            for codes, count in zip(members, counts, strict=True)
        ]
    )
    shuffled = chosen[np.argsort(mix(chosen, salt=2 * seed + 2), kind="stable")]
    return tuple(make_problem(int(code)) for code in shuffled)


def make_problem(code: int) -> Problem:
    """Make the problem of code `a * 1000 + b`."""
    a, b = divmod(code, _NUMBERS)
    stratum = (len(str(a)) - 1) * DIGITS + len(str(b)) - 1
    return Problem(prompt=f"{a}+{b}=", answer=str(a + b), stratum=stratum)


@lru_cache(maxsize=3 * STRATA)
def part_codes(name: Split, stratum: int) -> Codes:
    """Return the codes, ascending, of all problems of one stratum that may serve one split."""
    first, second = (_of_length(length + 1) for length in divmod(stratum, DIGITS))
    a, b = (grid.ravel() for grid in np.meshgrid(first, second, indexing="ij"))
    twins = np.minimum(a, b) * _NUMBERS + np.maximum(a, b)
    codes: Codes = (a * _NUMBERS + b)[may_serve(twins, name)]
    return codes


def _of_length(digits: int) -> Codes:
    low = 0 if digits == 1 else 10 ** (digits - 1)
    return np.arange(low, 10**digits, dtype=np.int64)


def _shares(total: int, capacities: Sequence[int]) -> list[int]:
    """Split `total` over the strata as evenly as their capacities allow.

    What a small stratum cannot take goes to the others. The sum is less than `total` only if all are full.
    """
    shares = [0] * len(capacities)
    left = total
    by_capacity = sorted(range(len(capacities)), key=lambda stratum: capacities[stratum])
    for taken, stratum in enumerate(by_capacity):
        shares[stratum] = min(capacities[stratum], left // (len(capacities) - taken))
        left -= shares[stratum]
    return shares
