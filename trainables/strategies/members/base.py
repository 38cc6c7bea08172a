"""Base of every member of an axis: one frozen model that carries its parameters and its behaviour.

Rates, rewards and value estimates are in [0, 1] unless `reward_range` says otherwise.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from trainables.errors import StrategyError

Alpha = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
GroupSize = Annotated[int, Field(ge=1, le=65536)]
PairSize = Annotated[int, Field(ge=2, le=65536)]
Positive = Annotated[float, Field(gt=0)]
Keep = Annotated[float, Field(gt=0, le=1)]

SIZES = ("type", "group_size", "k_min", "k_max")
"""Parameters that a label shows in a place of their own."""


class Frozen(BaseModel):
    """Base of members and presets: unknown keys are refused, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Member(Frozen):
    """One member of an axis. `type` is the name under which its table holds it."""

    type: str

    def check(self, beside: Point) -> None:
        """Raise ValueError with field, value and fix if the member does not suit the other axes."""

    def running(self, axis: str, kind: Any) -> Any:
        """Return what runs as this axis: a `kind`. A member is its own behaviour."""
        return self


class Point(Protocol):
    """A point in prior x fusion x budget, as a member sees the others (`StrategyConfig` is one)."""

    @property
    def prior(self) -> Member: ...
    @property
    def fusion(self) -> Member: ...
    @property
    def budget(self) -> Member: ...
    @property
    def estimator(self) -> Member: ...
    @property
    def normaliser(self) -> Member: ...
    @property
    def reward_range(self) -> tuple[float, float]: ...


class Custom(Member):
    """A member of your own, by import path. Built as `Class(**params)`."""

    type: Literal["custom"] = "custom"
    path: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    params: dict[str, Any] = {}

    def running(self, axis: str, kind: Any) -> Any:
        """Return an instance of the class, which must be a `kind`; see `build_own`."""
        return build_own(axis, self.path, self.params, kind)


def build_own(axis: str, path: str, params: Mapping[str, Any], kind: Any) -> Any:
    """Return an instance of the user's class at `path`. What its module or constructor raises is not caught.

    Raises:
        StrategyError: `path` leads to no class, or the class makes something other than a `kind`.
    """
    module_name, _, class_name = path.partition(":")
    try:
        factory = pkgutil.resolve_name(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise StrategyError(
            f"strategy.{axis}: {path!r}: no module {error.name!r}; install your package or put its folder on "
            f"PYTHONPATH (on every node)"
        ) from error
    except AttributeError as error:
        if error.name != class_name or error.obj is not sys.modules.get(module_name):
            raise
        factory = None
    if not callable(factory):
        raise StrategyError(f"strategy.{axis}: {path!r}: module {module_name!r} has no class {class_name!r}")
    made = factory(**params)
    if not isinstance(made, kind):
        raise StrategyError(
            f"strategy.{axis}: {path!r} makes a {type(made).__name__}, which is not a {kind.__name__}; see "
            f"docs/strategies.md for the methods it needs"
        )
    return made


def label(model: BaseModel) -> str:
    """Return the type and what differs from its defaults; group sizes always."""
    if isinstance(model, Custom):
        return model.path.partition(":")[2]
    values = dict(model)
    notes = []
    if "k_min" in values:
        notes.append(f"{values['k_min']}-{values['k_max']}")
    elif "group_size" in values:
        notes.append(f"{values['group_size']}")
    for field, info in type(model).model_fields.items():
        value = values[field]
        if value != info.default and field not in SIZES:
            notes.append(field if value is True else f"{field}={short(value)}")
    kind = str(values.get("type", ""))
    return f"{kind}({','.join(notes)})" if notes else kind


def short(value: object) -> str:
    """Return a parameter's value as a label shows it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, BaseModel):
        return label(value)
    if isinstance(value, Mapping):
        return str(value.get("type", value.get("updates", "...")))
    return str(value)


@dataclass(frozen=True)
class OneOf:
    """Marks a field of a pydantic model as an axis: a member chosen from `table` by its `type`.

    The axis accepts a mapping with a `type`, a bare string (that type with its defaults) or an import path.
    """

    table: Mapping[str, type[Member]]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices = {name: handler.generate_schema(member) for name, member in self.table.items()}
        union = core_schema.tagged_union_schema(choices, discriminator="type")
        return core_schema.no_info_before_validator_function(_open, union)


def _open(value: object) -> object:
    """Open a bare string: a type with its defaults, or an import path."""
    if isinstance(value, str):
        return {"type": "custom", "path": value} if ":" in value else {"type": value}
    return value
