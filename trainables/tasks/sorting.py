"""The second built-in task: put two to five numbers in the order of their last digits.

`41,73,21>` is to be continued by `41,21,73` or by `21,41,73`: numbers with the same last digit may stand in
any order, and the judge accepts every right one. A hash of the numbers, whatever their order, fixes which
split a problem may serve, so the tiny model has seen no validation or test problem of any `data_seed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from trainables.errors import SpecError
from trainables.tasks.base import Problem, Split
from trainables.tasks.hashing import Codes, may_serve, mix
from trainables.tasks.made import Made

FEWEST, MOST = 2, 5
"""Numbers in a prompt; each has two digits."""
STRATA = MOST - FEWEST + 1
"""One stratum for each count of numbers."""
LARGEST = 4096
"""Problems that a split may be asked for: pairs are the scarcest, with about 2,000 in a quarter."""

_LOW, _NUMBERS = 10, 90
_DRAWS = 12
"""Draws for each problem that is wanted; a quarter of them, less repeated ones, may serve a small split."""


class Sorting(Made):
    """Two to five two-digit numbers in four strata of equal size; any right order is right."""

    judge = "trainables.verifier.judge_order:by_last_digit"

    def draw(self, name: Split, size: int, seed: int) -> Sequence[Problem]:
        """Draw problems; the same ones for the same arguments."""
        return _draw(name, size, seed)


@lru_cache(maxsize=16)
def _draw(name: Split, size: int, seed: int) -> tuple[Problem, ...]:
    if size > LARGEST:
        raise SpecError(
            f"task.{name}_prompts: {size} is more than the {LARGEST} {name} problems of the sorting task; "
            f"lower it to at most {LARGEST}"
        )
    drawn: list[tuple[int, ...]] = []
    for stratum in range(STRATA):
        # The longest take what does not divide evenly.
        share = (size + stratum) // STRATA
        drawn += _distinct(name, stratum + FEWEST, share, seed)
    order = np.argsort(mix(np.arange(len(drawn), dtype=np.int64), salt=2 * seed + 2), kind="stable")
    return tuple(make_problem(drawn[i]) for i in order)


def make_problem(numbers: Sequence[int]) -> Problem:
    """Make the problem that shows these numbers in this order. Its reference is one right answer."""
    text = ",".join(map(str, numbers))
    right = sorted(numbers, key=lambda number: number % 10)
    return Problem(prompt=f"{text}>", answer=",".join(map(str, right)), stratum=len(numbers) - FEWEST)


def of_split(numbers_PK: npt.NDArray[np.int64], name: Split) -> npt.NDArray[np.bool_]:
    """Tell which of P rows of K numbers may serve one split, whatever their order."""
    ordered_PK = np.sort(numbers_PK, axis=1)
    codes: Codes = ordered_PK @ (100 ** np.arange(ordered_PK.shape[1], dtype=np.int64))
    return may_serve(codes, name)


def _distinct(name: Split, count: int, wanted: int, seed: int) -> list[tuple[int, ...]]:
    """Draw `wanted` different rows of `count` different numbers."""
    draws = _DRAWS * wanted
    cells = np.arange(draws * count, dtype=np.int64)
    salt = 2 * (seed * (MOST + 1) + count) + 1
    rows = (mix(cells, salt) % np.uint64(_NUMBERS)).astype(np.int64).reshape(draws, count) + _LOW
    all_differ = (np.diff(np.sort(rows, axis=1), axis=1) > 0).all(axis=1)
    rows = rows[all_differ & of_split(rows, name)]
    return list(dict.fromkeys(map(tuple, rows.tolist())))[:wanted]
