"""Who got how many configurations in a search, and the best of each: whether the comparison is a fair one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimtab.decide.compare.table import Row


@dataclass(frozen=True)
class Tuned:
    """One strategy of a search: the reference or a candidate."""

    family: str
    """Its label in the spec."""
    is_reference: bool
    configurations: int
    """Different configurations that were begun, stopped and failed ones included."""
    best: str | None
    """Number of the configuration of the highest score, and the values that the search gave it; None: none
    has finished."""
    score: float | None
    """Its score: mean accuracy over its curves."""
    edges: tuple[str, ...]
    """Settings of the best, such as `learner.lr=0.0008`, that are the largest or smallest of those tried."""


TRIED = 3
"""Fewer different values of a parameter have no middle, so that the best is always at an edge."""


def tuned(rows: Sequence[Row]) -> tuple[Tuned, ...]:
    """Count the configurations of each strategy and name its best: the reference first, then by score."""
    families: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.number):
        families.setdefault(row.family, []).append(row)
    found = []
    for family, members in families.items():
        best = max((row for row in members if row.score is not None), key=_score, default=None)
        found.append(
            Tuned(
                family,
                any(row.role != "candidate" for row in members),
                len({row.strategy or row.trial for row in members}),
                None if best is None else _named(best),
                None if best is None else best.score,
                () if best is None else _edges(best, members),
            )
        )
    return tuple(sorted(found, key=lambda one: (not one.is_reference, -(one.score or 0.0))))


def not_tuned(families: Sequence[Tuned]) -> str | None:
    """Say that the reference got fewer configurations than a candidate; None if it got as many."""
    reference = next((one for one in families if one.is_reference), None)
    others = [one for one in families if not one.is_reference]
    if reference is None or not others:
        return None
    most = max(others, key=lambda one: one.configurations)
    if most.configurations <= reference.configurations:
        return None
    return (
        f"reference not tuned: {reference.family} ran {_count(reference)}, {most.family} "
        f"{most.configurations}; give both the same search"
    )


def _named(row: Row) -> str:
    """Name a configuration by what was searched of it: `3 at learner.lr=0.0002`; else by its label."""
    values = [f"{name}={value}" for name, value in _searched(row).items()]
    return f"{row.number} at {', '.join(values)}" if values else f"{row.number} {row.label}"


def _searched(row: Row) -> dict[str, str]:
    """Return what was searched of a configuration, without the family in the names."""
    prefix = f"{row.family}."
    return {k.removeprefix(prefix): value for k, value in row.parameters.items() if k.startswith(prefix)}


def _edges(best: Row, members: Sequence[Row]) -> tuple[str, ...]:
    """Name the numbers of the best beyond which nothing was tried: a better one may lie there."""
    found = []
    for name, value in _searched(best).items():
        tried = {number for row in members if (number := _number(_searched(row).get(name))) is not None}
        if len(tried) >= TRIED and _number(value) in (min(tried), max(tried)):
            found.append(f"{name}={value}")
    return tuple(found)


def _number(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _score(row: Row) -> float:
    return row.score if row.score is not None else float("-inf")


def _count(one: Tuned) -> str:
    return f"{one.configurations} configuration{'' if one.configurations == 1 else 's'}"
