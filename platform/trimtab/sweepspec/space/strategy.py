"""A strategy as the user wrote it: its label, its parameters, and parameters set to other values."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from trainables.strategies.config import COMMON, parse_strategy, preset_names, preset_parameters
from trainables.strategies.members.tables import TABLES
from trainables.strategies.wording import did_you_mean
from trimtab.errors import SpecError
from trimtab.sweepspec.space.settings import nearest_setting


def default_label(strategy: str | Mapping[str, Any], fallback: str) -> str:
    """Return the preset's name; `fallback` for axes that are spelled out and for import paths."""
    name = strategy if isinstance(strategy, str) else strategy.get("preset")
    return name if isinstance(name, str) and name in preset_names() else fallback


def parameters(strategy: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return parameter -> value: what is written, over the defaults of the preset or of the axes' members.

    Axes are named by dotted path.
    """
    written = {} if isinstance(strategy, str) else _flatten(strategy)
    written.pop("preset", None)
    preset = default_label(strategy, "")
    defaults = {name: known.default for name, known in preset_parameters(preset).items()} if preset else {}
    return {**_member_defaults(strategy), **defaults, **written}


def _member_defaults(strategy: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the axes that are spelled out, defaults included; empty if it cannot run."""
    if isinstance(strategy, str):
        return {}
    try:
        resolved = parse_strategy(strategy)
    except SpecError:
        return {}
    return _flatten(resolved.model_dump(include=set(TABLES) & set(strategy)))


def check_parameter(strategy: str | Mapping[str, Any], name: str) -> None:
    """Refuse a parameter that this preset does not have. Spelled-out axes are checked when they are built.

    Raises:
        SpecError: the preset has no such parameter.
    """
    preset = default_label(strategy, "")
    if not preset or name.split(".")[0] in COMMON:
        return
    known = preset_parameters(preset)
    if name not in known:
        raise SpecError(
            f"preset {preset!r} has no such parameter; {did_you_mean(name, known) or nearest_setting(name)}"
            f"it has {', '.join(known)}"
        )


def merge(strategy: str | Mapping[str, Any], values: Mapping[str, Any]) -> str | dict[str, Any]:
    """Return the strategy with these parameters set. A dotted name goes down into the axes.

    Raises:
        SpecError: an import path alone holds no parameters, or a dotted name leads into a plain value.
    """
    if not values:
        return strategy if isinstance(strategy, str) else dict(strategy)
    if isinstance(strategy, str):
        if ":" in strategy:
            raise SpecError(
                f"parameters {', '.join(values)} of {strategy!r} cannot be searched by an import path alone; "
                "spell out its axes"
            )
        merged: dict[str, Any] = {"preset": strategy}
    else:
        merged = copy.deepcopy(dict(strategy))
    for name, value in values.items():
        _set(merged, name, value)
    return merged


def _set(tree: dict[str, Any], name: str, value: Any) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        child = tree.get(parent, {})
        # An axis may be written as a bare type: `fusion: tested`.
        child = {"type": child} if isinstance(child, str) else child
        if not isinstance(child, dict):
            raise SpecError(f"search.{name}: {parent!r} is {child!r} and holds no parameters")
        tree[parent] = child
        tree = child
    tree[last] = value


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat
