"""Ranges that a searched parameter may take.

A bound is a number, or the name of another parameter of the same strategy: `k_max: {int: [k_min, 16]}` draws
`k_max` from whatever `k_min` is up to 16, so that no invalid pair is ever proposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from trainables.config import Strict
from trimtab.errors import SpecError

if TYPE_CHECKING:
    import optuna

Value: TypeAlias = bool | int | float | str | None
Known: TypeAlias = Mapping[str, Any]
"""Values a bound may refer to: the strategy's own parameters, overlaid by those searched before."""


class Choice(Strict):
    """One of the listed values: `{choice: [2, 4, 8]}`."""

    choice: Annotated[tuple[Value, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Choice:
        if len(set(map(repr, self.choice))) < len(self.choice):
            raise ValueError(f"choice: {list(self.choice)} names a value twice; keep each once")
        return self

    def references(self) -> tuple[str, ...]:
        """Return the names of the parameters that the bounds refer to."""
        return ()

    def corners(self, known: Known) -> list[Value]:
        """Return the values to check at load: the extremes, or every choice."""
        return list(self.choice)

    def contains(self, value: Any, known: Known) -> bool:
        return value in self.choice

    def values(self, known: Known) -> list[Value]:
        """Return every value, in order."""
        return list(self.choice)

    def suggest(self, trial: optuna.Trial, name: str, known: Known) -> Value:
        chosen: Value = trial.suggest_categorical(name, list(self.choice))
        return chosen


class FloatRange(Strict):
    """A real number: `{float: [0.01, 0.9], log: true}`. Both ends are included."""

    bounds: Annotated[tuple[float | str, float | str], Field(alias="float")]
    log: bool = False
    """Uniform in the logarithm."""
    step: Annotated[float, Field(gt=0)] | None = None
    """Distance between neighbouring values; not together with `log`."""

    @model_validator(mode="after")
    def _consistent(self) -> FloatRange:
        if self.log and self.step is not None:
            raise ValueError(f"step: {self.step} cannot be combined with log: true; remove one")
        _check_order("float", self.bounds, self.log)
        return self

    def references(self) -> tuple[str, ...]:
        return tuple(bound for bound in self.bounds if isinstance(bound, str))

    def resolve(self, known: Known) -> tuple[float, float]:
        """Return the bounds as numbers.

        Raises:
            SpecError: a name does not stand for a number, or nothing is left between the bounds.
        """
        return _resolve(self.bounds, known)

    def corners(self, known: Known) -> list[Value]:
        low, high = self.resolve(known)
        return [low] if low == high else [low, high]

    def contains(self, value: Any, known: Known) -> bool:
        low, high = self.resolve(known)
        return isinstance(value, int | float) and low <= value <= high

    def values(self, known: Known) -> list[Value]:
        """Return every value, in order.

        Raises:
            SpecError: there is no `step`, so that there is no end of them.
        """
        if self.step is None:
            raise SpecError("float: a grid needs a step; add step: <distance>, or use choice: [...]")
        low, high = self.resolve(known)
        count = int((high - low) / self.step + 1e-9) + 1
        return [min(low + k * self.step, high) for k in range(count)]

    def suggest(self, trial: optuna.Trial, name: str, known: Known) -> Value:
        low, high = self.resolve(known)
        return trial.suggest_float(name, low, high, step=self.step, log=self.log)


class IntRange(Strict):
    """A whole number: `{int: [4, 16]}`. Both ends are included."""

    bounds: Annotated[tuple[int | str, int | str], Field(alias="int")]
    log: bool = False
    """Uniform in the logarithm."""
    step: Annotated[int, Field(ge=1)] = 1
    """Distance between neighbouring values; not together with `log`."""

    @model_validator(mode="after")
    def _consistent(self) -> IntRange:
        if self.log and self.step != 1:
            raise ValueError(f"step: {self.step} cannot be combined with log: true; remove one")
        _check_order("int", self.bounds, self.log)
        return self

    def references(self) -> tuple[str, ...]:
        return tuple(bound for bound in self.bounds if isinstance(bound, str))

    def resolve(self, known: Known) -> tuple[int, int]:
        """Return the bounds as whole numbers.

        Raises:
            SpecError: a name does not stand for a whole number, or nothing is left between the bounds.
        """
        low, high = _resolve(self.bounds, known)
        if low != int(low) or high != int(high):
            raise SpecError(
                f"int: [{low}, {high}] must have whole numbers as bounds; write them, or float: [...]"
            )
        return int(low), int(high)

    def corners(self, known: Known) -> list[Value]:
        low, high = self.resolve(known)
        last = high - (high - low) % self.step
        return [low] if low == last else [low, last]

    def contains(self, value: Any, known: Known) -> bool:
        low, high = self.resolve(known)
        return (
            isinstance(value, int)
            and not isinstance(value, bool)
            and low <= value <= high
            and (value - low) % self.step == 0
        )

    def values(self, known: Known) -> list[Value]:
        """Return every value, in order."""
        low, high = self.resolve(known)
        return list(range(low, high + 1, self.step))

    def suggest(self, trial: optuna.Trial, name: str, known: Known) -> Value:
        low, high = self.resolve(known)
        # Optuna rounds a bound that is off the grid and warns; the same value, silently.
        high -= (high - low) % self.step
        return trial.suggest_int(name, low, high, step=self.step, log=self.log)


def _kind(value: Any) -> str | None:
    for kind, cls in (("choice", Choice), ("float", FloatRange), ("int", IntRange)):
        if isinstance(value, cls):
            return f"range {kind}"
    if isinstance(value, Mapping):
        # Distinct from the keys themselves, so that an error's path does not name a key twice.
        kinds = [f"range {kind}" for kind in ("choice", "float", "int") if kind in value]
        return kinds[0] if len(kinds) == 1 else None
    return None


Range: TypeAlias = Annotated[
    Annotated[Choice, Tag("range choice")]
    | Annotated[FloatRange, Tag("range float")]
    | Annotated[IntRange, Tag("range int")],
    Discriminator(
        _kind,
        custom_error_type="range",
        custom_error_message="is not a range; write exactly one of {choice: [a, b]}, {float: [low, high]} or "
        "{int: [low, high]}",
    ),
]


def _check_order(key: str, bounds: tuple[float | str, float | str], log: bool) -> None:
    low, high = bounds
    if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
        raise ValueError(f"{key}: the low bound {low} is above the high bound {high}; swap them")
    if log and isinstance(low, int | float) and low <= 0:
        raise ValueError(
            f"{key}: the low bound {low} does not have a logarithm; raise it above 0 or remove log: true"
        )


def _resolve(bounds: tuple[float | str, float | str], known: Known) -> tuple[float, float]:
    numbers: list[float] = []
    for bound in bounds:
        value = known.get(bound) if isinstance(bound, str) else bound
        if isinstance(value, bool) or not isinstance(value, int | float):
            found = "not known here" if value is None else f"{value!r}, which is not a number"
            raise SpecError(
                f"bound {bound!r} is {found}; a bound is a number, or the name of a parameter that is fixed "
                "or searched earlier"
            )
        numbers.append(value)
    low, high = numbers
    if low > high:
        raise SpecError(
            f"bounds [{bounds[0]}, {bounds[1]}] leave nothing: the low one can be {low}, the high one is "
            f"then {high}; raise the high bound or narrow the parameter that it follows"
        )
    return low, high
