"""Checks of a searched space at load, so that no trial of a sweep can be refused later."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trimtab.errors import SpecError
from trimtab.sweepspec.space.ranges import FloatRange, Known, Range, Value
from trimtab.sweepspec.space.settings import check_setting, is_setting, nearest_setting
from trimtab.sweepspec.space.strategy import check_parameter

if TYPE_CHECKING:
    from trimtab.sweepspec.spec import Searched, SweepSpec

CORNERS = 1024
"""How many combinations of extreme values of one candidate are tried at load."""


class _BoundsError(SpecError):
    """Bounds that cannot be resolved; the caller knows which candidate they belong to."""


@dataclass(frozen=True)
class Space:
    """What is searched of one strategy, and the values that stand before the search."""

    strategy: str | dict[str, Any]
    """As it is written."""
    ranges: dict[str, Range]
    """Parameter of the strategy, or setting of the trial, -> range: its own over the shared ones."""
    known: dict[str, Any]
    """Parameters and settings before the search: what is written, over the defaults."""


def corners(space: Space) -> Iterator[dict[str, Value]]:
    """Yield combinations of extreme values of what is searched, at most CORNERS of them.

    Raises:
        SpecError: the bounds of a range cannot be resolved.
    """
    names = list(space.ranges)

    def walk(depth: int, chosen: dict[str, Value]) -> Iterator[dict[str, Value]]:
        if depth == len(names):
            yield dict(chosen)
            return
        name = names[depth]
        here: Known = {**space.known, **chosen}
        try:
            values = space.ranges[name].corners(here)
        except SpecError as error:
            raise _BoundsError(f"search.{name}: {error}") from None
        for value in values:
            yield from walk(depth + 1, {**chosen, name: value})

    for count, corner in enumerate(walk(0, {})):
        if count == CORNERS:
            return
        yield corner


def check_searched(spec: SweepSpec, candidate: Searched, where: str) -> None:
    """Build the candidate at every corner of its space, so that no trial can be refused later.

    `where` is the candidate's place in the spec.

    Raises:
        SpecError: a setting, a range, a known configuration or a corner of the space that cannot run.
    """
    for name in candidate.settings:
        _check_name(f"{where}.settings.{name}", name, candidate.strategy, settings_only=True)
    space = spec.space_of(candidate)
    names = list(space.ranges)
    for position, (name, range_) in enumerate(space.ranges.items()):
        _check_name(f"{where}.search.{name}", name, candidate.strategy)
        for reference in range_.references():
            if reference in names[position:]:
                when = "at the same time" if reference == name else "after it"
                raise SpecError(
                    f"{where}.search.{name}: its bound follows {reference!r}, which is drawn {when}; list "
                    f"{reference!r} first"
                )
    written = candidate.strategy if isinstance(candidate.strategy, dict) else {}
    if candidate.settings or any(name in written for name in names):
        # The search replaces these values, but an impossible one is a mistake and not a default.
        spec.config_of(candidate, {})
    try:
        for corner in corners(space):
            _try_corner(spec, candidate, corner, where)
    except _BoundsError as error:
        raise SpecError(f"{where}.{error}") from None
    _check_inside(spec, candidate, where)
    _check_enqueued(spec, candidate, where)
    if candidate is spec.reference:
        _check_own_values(space)


def check_shared(shared: Mapping[str, Range]) -> None:
    """Refuse a shared range of anything but a setting: a parameter belongs to one strategy.

    Raises:
        SpecError: with the reason.
    """
    for name in shared:
        _check_name(f"shared_search.{name}", name, "", settings_only=True)


def _check_name(
    field: str, name: str, strategy: str | dict[str, Any], *, settings_only: bool = False
) -> None:
    try:
        if is_setting(name):
            check_setting(name)
        elif settings_only:
            raise SpecError(
                f"is not a setting of a trial; {nearest_setting(name)}parameters of a strategy stand in its "
                "own strategy: and search:"
            )
        else:
            check_parameter(strategy, name)
    except SpecError as error:
        raise SpecError(f"{field}: {error}") from None


def _try_corner(spec: SweepSpec, candidate: Searched, corner: Mapping[str, Value], where: str) -> None:
    try:
        spec.config_of(candidate, corner)
    except SpecError as error:
        if not corner or str(error) == _own_error(spec, candidate):
            raise
        fields = " and ".join(f"search.{name}" for name in _blamed(corner, str(error)))
        if "unknown key" in str(error):
            raise SpecError(f"{where}.{fields}: {error}") from None
        point = ", ".join(f"{name}={value!r}" for name, value in corner.items())
        follow = ""
        if _runs_elsewhere(spec, candidate, corner, _blamed(corner, str(error))):
            follow = ", or let a bound follow another parameter: int: [<parameter>, 16]"
        raise SpecError(
            f"{where}.{fields}: the space holds {point}, which cannot run: {error}. Narrow the range{follow}"
        ) from None


def _runs_elsewhere(
    spec: SweepSpec, candidate: Searched, corner: Mapping[str, Value], blamed: list[str]
) -> bool:
    """Whether the blamed values run beside other values of the rest: then the pair is at fault."""
    for other in corners(spec.space_of(candidate)):
        if other != corner and all(other[name] == corner[name] for name in blamed):
            try:
                spec.config_of(candidate, other)
            except SpecError:
                continue
            return True
    return False


def _check_inside(spec: SweepSpec, candidate: Searched, where: str) -> None:
    """Try a value between the ends of each float range: with whole ends, only whole numbers may run."""
    space = spec.space_of(candidate)
    for name, range_ in space.ranges.items():
        if not isinstance(range_, FloatRange):
            continue
        point = _inside(space, name)
        try:
            spec.config_of(candidate, point)
        except SpecError as error:
            raise SpecError(
                f"{where}.search.{name}: the space holds {name}={point[name]!r}, which cannot run: {error}; "
                "for whole numbers write int: [low, high]"
            ) from None


def _inside(space: Space, name: str) -> dict[str, Value]:
    """Return a point between the ends of one float range, at the high ends of the others."""
    point: dict[str, Value] = {}
    for other, range_ in space.ranges.items():
        known: Known = {**space.known, **point}
        try:
            point[other] = range_.corners(known)[-1]
        except SpecError:
            # A bound follows the fraction: the value itself is what to refuse.
            return point
        if other == name and isinstance(range_, FloatRange):
            low, high = range_.resolve(known)
            step = (high - low) * 0.382 if range_.step is None else range_.step
            point[other] = min(low + step, high)
    return point


def _own_error(spec: SweepSpec, candidate: Searched) -> str | None:
    """Return what is wrong with the candidate as it is written, whatever the search draws."""
    try:
        spec.config_of(candidate, {})
    except SpecError as error:
        return str(error)
    return None


def _blamed(corner: Mapping[str, Value], message: str) -> list[str]:
    """Return the searched parameters that the message names; all of them if it names none."""
    named = [name for name in corner if re.search(rf"\b{re.escape(name.rsplit('.', 1)[-1])}\b", message)]
    return named or list(corner)


def _check_own_values(reference: Space) -> None:
    """Refuse a space that does not hold the reference's own values, which are its first trial."""
    for name, range_ in reference.ranges.items():
        known = reference.known
        if name not in known or not range_.contains(known[name], known):
            place = f"reference.settings.{name}" if is_setting(name) else f"reference.strategy.{name}"
            raise SpecError(
                f"reference.search.{name}: {range_.model_dump(by_alias=True)} does not hold the reference's "
                f"own value {known.get(name)!r}; widen the range or set {place}"
            )


def _check_enqueued(spec: SweepSpec, candidate: Searched, where: str) -> None:
    space = spec.space_of(candidate)
    for position, point in enumerate(candidate.enqueue):
        here = f"{where}.enqueue.{position}"
        known: Known = {**space.known, **point}
        for name, value in point.items():
            if name not in space.ranges:
                raise SpecError(
                    f"{here}.{name}: is not a searched parameter; name one of {where}.search: "
                    f"{', '.join(space.ranges) or 'there are none'}"
                )
            range_ = space.ranges[name]
            left_out = [
                other for other in range_.references() if other in space.ranges and other not in point
            ]
            if left_out:
                raise SpecError(
                    f"{here}.{name}: its range follows {left_out[0]!r}; give that a value as well"
                )
            if not range_.contains(value, known):
                raise SpecError(
                    f"{here}.{name}: {value!r} lies outside its range {range_.model_dump(by_alias=True)}; "
                    "widen the range or change the value"
                )
        if len(point) == len(space.ranges):
            spec.config_of(candidate, point)


def check_sampler(spec: SweepSpec) -> None:
    """Refuse a sampler that cannot search this space.

    Raises:
        SpecError: with the sampler and what it lacks.
    """
    sampler = spec.search.sampler
    if sampler in ("gp", "qmc"):
        _check_plain(spec, sampler)
    if sampler == "grid":
        points = sum(count_points(spec.space_of(candidate)) for candidate in spec.candidates)
        _check_grid("search.trials", spec.candidate_trials, points)
        if spec.space_of(spec.reference).ranges:
            points = count_points(spec.space_of(spec.reference))
            _check_grid("reference.trials", spec.reference_trials, points)


def _check_plain(spec: SweepSpec, sampler: str) -> None:
    """GP and QMC sample one box: neither branches nor bounds that move."""
    if len(spec.candidates) > 1:
        raise SpecError(
            f"search.sampler: {sampler} searches a single space, but there are {len(spec.candidates)} "
            "candidates; use tpe, or one sweep for each candidate"
        )
    for searched in (spec.reference, *spec.candidates):
        for name, range_ in spec.space_of(searched).ranges.items():
            if range_.references():
                raise SpecError(
                    f"search.sampler: {sampler} needs fixed bounds, but search.{name} follows "
                    f"{range_.references()[0]!r}; use tpe, or give numbers"
                )


def _check_grid(field: str, trials: int, points: int) -> None:
    if trials < points:
        raise SpecError(
            f"{field}: {trials} is less than the {points} points of the grid; raise it to {points}, narrow "
            "the ranges, or use another sampler"
        )


def count_points(space: Space) -> int:
    """Return the number of points of a space's grid.

    Raises:
        SpecError: a float range without steps.
    """
    return sum(1 for _ in grid(space))


def grid(space: Space) -> Iterator[dict[str, Value]]:
    """Yield every point of a space, parameter by parameter.

    Raises:
        SpecError: a float range without steps.
    """
    yield from _walk(space, {})


def _walk(space: Space, chosen: dict[str, Value]) -> Iterator[dict[str, Value]]:
    if len(chosen) == len(space.ranges):
        yield dict(chosen)
        return
    name = list(space.ranges)[len(chosen)]
    try:
        values = space.ranges[name].values({**space.known, **chosen})
    except SpecError as error:
        raise SpecError(f"search.{name}: {error}") from None
    for value in values:
        yield from _walk(space, {**chosen, name: value})
