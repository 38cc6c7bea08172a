"""Checks of a searched space at load, so that no trial of a sweep can be refused later."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trimtab.errors import SpecError
from trimtab.sweepspec.ranges import FloatRange, Known, Value
from trimtab.sweepspec.strategy import check_parameter, parameters

if TYPE_CHECKING:
    from trimtab.sweepspec.spec import Searched, SweepSpec

CORNERS = 1024
"""How many combinations of extreme values of one candidate are tried at load."""


class _BoundsError(SpecError):
    """Bounds that cannot be resolved; the caller knows which candidate they belong to."""


def known_values(candidate: Searched) -> dict[str, Any]:
    """Return a candidate's parameters before the search: what is written, over the preset's defaults."""
    return parameters(candidate.strategy)


def corners(candidate: Searched) -> Iterator[dict[str, Value]]:
    """Yield combinations of extreme values of the searched parameters, at most CORNERS of them.

    Raises:
        SpecError: the bounds of a range cannot be resolved.
    """
    names = list(candidate.search)
    known = known_values(candidate)

    def walk(depth: int, chosen: dict[str, Value]) -> Iterator[dict[str, Value]]:
        if depth == len(names):
            yield dict(chosen)
            return
        name = names[depth]
        here: Known = {**known, **chosen}
        try:
            values = candidate.search[name].corners(here)
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
        SpecError: a range, a known configuration or a corner of the space that cannot run.
    """
    names = list(candidate.search)
    for position, (name, range_) in enumerate(candidate.search.items()):
        try:
            check_parameter(candidate.strategy, name)
        except SpecError as error:
            raise SpecError(f"{where}.search.{name}: {error}") from None
        for reference in range_.references():
            if reference in names[position:]:
                when = "at the same time" if reference == name else "after it"
                raise SpecError(
                    f"{where}.search.{name}: its bound follows {reference!r}, which is drawn {when}; list "
                    f"{reference!r} first"
                )
    if isinstance(candidate.strategy, dict) and any(name in candidate.strategy for name in names):
        # The search replaces these values, but an impossible one is a mistake and not a default.
        spec.config_of(candidate, {})
    try:
        for corner in corners(candidate):
            _try_corner(spec, candidate, corner, where)
    except _BoundsError as error:
        raise SpecError(f"{where}.{error}") from None
    _check_inside(spec, candidate, where)
    _check_enqueued(spec, candidate, where)
    if candidate is spec.reference:
        _check_own_values(candidate)


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
    for other in corners(candidate):
        if other != corner and all(other[name] == corner[name] for name in blamed):
            try:
                spec.config_of(candidate, other)
            except SpecError:
                continue
            return True
    return False


def _check_inside(spec: SweepSpec, candidate: Searched, where: str) -> None:
    """Try a value between the ends of each float range: with whole ends, only whole numbers may run."""
    for name, range_ in candidate.search.items():
        if not isinstance(range_, FloatRange):
            continue
        point = _inside(candidate, name)
        try:
            spec.config_of(candidate, point)
        except SpecError as error:
            raise SpecError(
                f"{where}.search.{name}: the space holds {name}={point[name]!r}, which cannot run: {error}; "
                "for whole numbers write int: [low, high]"
            ) from None


def _inside(candidate: Searched, name: str) -> dict[str, Value]:
    """Return a point between the ends of one float range, at the high ends of the others."""
    point: dict[str, Value] = {}
    for other, range_ in candidate.search.items():
        known: Known = {**known_values(candidate), **point}
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


def _check_own_values(reference: Searched) -> None:
    """Refuse a space that does not hold the reference's own values, which are its first trial."""
    known = known_values(reference)
    for name, range_ in reference.search.items():
        if name not in known or not range_.contains(known[name], known):
            raise SpecError(
                f"reference.search.{name}: {range_.model_dump(by_alias=True)} does not hold the reference's "
                f"own value {known.get(name)!r}; widen the range or set reference.strategy.{name}"
            )


def _check_enqueued(spec: SweepSpec, candidate: Searched, where: str) -> None:
    for position, point in enumerate(candidate.enqueue):
        here = f"{where}.enqueue.{position}"
        known: Known = {**known_values(candidate), **point}
        for name, value in point.items():
            if name not in candidate.search:
                raise SpecError(
                    f"{here}.{name}: is not a searched parameter; name one of {where}.search: "
                    f"{', '.join(candidate.search) or 'there are none'}"
                )
            range_ = candidate.search[name]
            left_out = [
                other for other in range_.references() if other in candidate.search and other not in point
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
        if len(point) == len(candidate.search):
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
        _check_grid("search.trials", spec.search.trials, spec.candidates)
        if spec.reference.search:
            _check_grid("reference.trials", spec.reference_trials, (spec.reference,))


def _check_plain(spec: SweepSpec, sampler: str) -> None:
    """GP and QMC sample one box: neither branches nor bounds that move."""
    if len(spec.candidates) > 1:
        raise SpecError(
            f"search.sampler: {sampler} searches a single space, but there are {len(spec.candidates)} "
            "candidates; use tpe, or one sweep for each candidate"
        )
    for searched in (spec.reference, *spec.candidates):
        for name, range_ in searched.search.items():
            if range_.references():
                raise SpecError(
                    f"search.sampler: {sampler} needs fixed bounds, but search.{name} follows "
                    f"{range_.references()[0]!r}; use tpe, or give numbers"
                )


def _check_grid(field: str, trials: int, families: tuple[Searched, ...]) -> None:
    points = sum(sum(1 for _ in grid(searched)) for searched in families)
    if trials < points:
        raise SpecError(
            f"{field}: {trials} is less than the {points} points of the grid; raise it to {points}, narrow "
            "the ranges, or use another sampler"
        )


def grid(searched: Searched) -> Iterator[dict[str, Value]]:
    """Yield every point of a space, parameter by parameter.

    Raises:
        SpecError: a float range without steps.
    """
    yield from _walk(searched, known_values(searched), {})


def _walk(searched: Searched, known: Known, chosen: dict[str, Value]) -> Iterator[dict[str, Value]]:
    if len(chosen) == len(searched.search):
        yield dict(chosen)
        return
    name = list(searched.search)[len(chosen)]
    try:
        values = searched.search[name].values({**known, **chosen})
    except SpecError as error:
        raise SpecError(f"search.{name}: {error}") from None
    for value in values:
        yield from _walk(searched, known, {**chosen, name: value})
