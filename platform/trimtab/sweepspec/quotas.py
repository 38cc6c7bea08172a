"""How many configurations each strategy of a sweep gets: as many as another, where nothing else is said."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from trimtab.errors import SpecError
from trimtab.sweepspec.space.check import Space, count_points, grid
from trimtab.sweepspec.space.suggest import first_points

if TYPE_CHECKING:
    from trimtab.sweepspec.spec import Searched, SweepSpec

TRIALS = 5
"""Configurations of the candidates, where nothing says how many."""


def quotas(spec: SweepSpec) -> tuple[int, ...]:
    """Return the number of trials of each candidate.

    A candidate's own number first. `search.trials_each`, where it is searched. Once, where nothing is. The
    others share what `search.trials` leaves, evenly: none gets more than its space has configurations.
    """
    certain = [_certain(spec, candidate) for candidate in spec.candidates]
    sharing = [place for place, number in enumerate(certain) if number is None]
    given = [number or 0 for number in certain]
    if not sharing:
        return tuple(given)
    spaces = [spec.space_of(spec.candidates[place]) for place in sharing]
    total = TRIALS if spec.search.trials is None else spec.search.trials
    left = max(total - sum(given), len(sharing))
    most = [different(space, left) for space in spaces]
    first = [len(first_points(spec, spec.candidates[place])) for place in sharing]
    for place, number in zip(sharing, _shares(left, first, most), strict=True):
        given[place] = number
    return tuple(given)


def different(space: Space, limit: int) -> int:
    """Return the number of different configurations of a space, or `limit` if there are more."""
    try:
        return max(1, sum(1 for _ in islice(grid(space), limit)))
    except SpecError:
        return limit  # a range without steps has no end of values


def _certain(spec: SweepSpec, candidate: Searched) -> int | None:
    space = spec.space_of(candidate)
    if candidate.trials is not None:
        return candidate.trials
    if not space.ranges:
        return 1
    if spec.search.trials_each is not None:
        return different(space, spec.search.trials_each)
    return count_points(space) if spec.search.sampler == "grid" else None


def _shares(left: int, first: Sequence[int], most: Sequence[int]) -> list[int]:
    """Share out trials one by one, to whoever has fewest; what is known before the search comes first."""
    wanted = [min(one, top) for one, top in zip(first, most, strict=True)]
    given = [max(1, one) for one in wanted] if sum(wanted) <= left else [1] * len(most)
    for _ in range(left - sum(given)):
        open_places = [place for place, top in enumerate(most) if given[place] < top]
        if not open_places:
            break
        given[min(open_places, key=lambda place: given[place])] += 1
    return given


def repeats(spec: SweepSpec) -> int:
    """Return how often a candidate runs again under fresh seeds at most, and so does the reference.

    A candidate of more trials of its own than its space has configurations runs some of them again.
    """
    times = [
        -(-candidate.trials // different(spec.space_of(candidate), candidate.trials))
        for candidate in spec.candidates
        if candidate.trials is not None
    ]
    return max(times, default=1) - 1


def check_quotas(spec: SweepSpec) -> None:
    """Refuse numbers of trials that do not hold what is certain to run.

    Raises:
        SpecError: a candidate's own number, or that of all, is too small.
    """
    certain = 0
    for number, candidate in enumerate(spec.candidates):
        quota = _certain(spec, candidate)
        certain += 1 if quota is None else quota
        first = len(first_points(spec, candidate))
        if quota is not None and quota < first:
            raise SpecError(
                f"candidates.{number}.trials: {quota} is less than the {first} configurations that run "
                f"before the search (own values, enqueue, a grid's points); raise it to {first}"
            )
    if spec.candidate_trials < certain:
        raise SpecError(
            f"search.trials: {spec.candidate_trials} is less than the {certain} configurations that the "
            f"candidates get for certain; raise it to {certain}, or remove it"
        )


def check_used(spec: SweepSpec) -> None:
    """Refuse more trials than the candidates have configurations.

    Raises:
        SpecError: `search.trials` cannot all be used.
    """
    used = sum(spec.quotas)
    if spec.search.trials is not None and spec.search.trials > used:
        who = ", ".join(
            f"{spec.label_of(one)} {quota}" for one, quota in zip(spec.candidates, spec.quotas, strict=True)
        )
        raise SpecError(
            f"search.trials: {spec.search.trials}, of which only {used} can be used ({who}): what is not "
            "searched runs once, and a space no longer than it has configurations; lower it to "
            f"{used}, search more, or give a candidate trials: of its own, to run it again under fresh seeds"
        )


def quota_notes(spec: SweepSpec) -> list[str]:
    """Say which numbers of trials are not what they seem."""
    found = []
    for number, candidate in enumerate(spec.candidates):
        space = spec.space_of(candidate)
        wanted = candidate.trials or (spec.search.trials_each if space.ranges else None) or 1
        have = different(space, wanted)
        if have == wanted:
            continue
        many = f"its space has {have} configuration{'' if have == 1 else 's'}"
        if candidate.trials:
            found.append(
                f"candidates.{number}.trials: {wanted}, but {many}: the others repeat them under fresh "
                "seeds, and so does the reference"
            )
        else:
            found.append(f"search.trials_each: {wanted}, but candidates.{number} gets {have}: {many}")
    return found
