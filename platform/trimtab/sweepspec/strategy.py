"""A strategy as the user wrote it: its label, its parameters, and parameters set to other values."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from typing import Any

from trainables.strategies.config import COMMON, parse_strategy, preset_names, preset_parameters
from trimtab.errors import SpecError

AXES = ("prior", "fusion", "budget", "estimator", "normaliser")


def default_label(strategy: str | Mapping[str, Any], fallback: str) -> str:
    """The preset's name; `fallback` for axes that are spelled out and for import paths."""
    name = strategy if isinstance(strategy, str) else strategy.get("preset")
    return name if isinstance(name, str) and name in preset_names() else fallback


def parameters(strategy: str | Mapping[str, Any]) -> dict[str, Any]:
    """Parameter -> value: what is written, over the defaults of the preset or of the axes' members; axes by
    dotted path.
    """
    written = {} if isinstance(strategy, str) else _flatten(strategy)
    written.pop("preset", None)
    preset = default_label(strategy, "")
    defaults = {name: known.default for name, known in preset_parameters(preset).items()} if preset else {}
    return {**_member_defaults(strategy), **defaults, **written}


def _member_defaults(strategy: str | Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the axes that are spelled out, also those that are not written; empty if it cannot run."""
    if isinstance(strategy, str):
        return {}
    try:
        resolved = parse_strategy(strategy)
    except SpecError:
        return {}
    return _flatten({axis: getattr(resolved, axis).model_dump() for axis in AXES if axis in strategy})


def check_parameter(strategy: str | Mapping[str, Any], name: str) -> None:
    """SpecError if this preset has no such parameter. Spelled-out axes are checked when they are built."""
    preset = default_label(strategy, "")
    if not preset or name.split(".")[0] in COMMON:
        return
    known = preset_parameters(preset)
    if name not in known:
        close = difflib.get_close_matches(name, list(known), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise SpecError(f"preset {preset!r} has no such parameter; {hint}it has {', '.join(known)}")


def merge(strategy: str | Mapping[str, Any], values: Mapping[str, Any]) -> str | dict[str, Any]:
    """The strategy with these parameters set. A dotted name goes down into the axes."""
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
