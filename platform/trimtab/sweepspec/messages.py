"""Pydantic's validation errors as messages a user can act on: field, value, fix."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from trainables.strategies.wording import rule
from trimtab.errors import SpecError, TrimtabError

Path = tuple[str | int, ...]


def spec_error(
    error: ValidationError,
    model: type[BaseModel],
    raw: Any,
    *,
    prefix: str = "",
    renamed: Mapping[str, str] | None = None,
) -> TrimtabError:
    """One error that names each bad field, its value and the fix.

    `prefix` is where `raw` lies in the user's file; `renamed` maps a top-level key of `raw` to where that
    part really is. An error of our own tree that a validator raised is returned as it is.
    """
    items = error.errors(include_url=False)
    by_field: dict[str, list[str]] = {}
    for item in items:
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, TrimtabError) and not item["loc"]:
            return cause
        if _follows(item, items):
            continue
        path = _in_input(item["loc"], raw, keep_last=item["type"] in ("missing", "extra_forbidden"))
        text = _line(item, path, model, prefix, renamed or {})
        head, mark, broken = text.partition(" is not valid: ")
        rules = by_field.setdefault(head + mark, [])
        if broken not in rules:
            rules.append(broken)
    # The branches of a union each report why they refused the value: one line for all of them.
    lines = [head + " or ".join(rules) for head, rules in by_field.items()]
    return SpecError(lines[0] if len(lines) == 1 else "\n".join(["", *(f"  {line}" for line in lines)]))


def _follows(item: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> bool:
    """A collection is 'too short' only because one of its items was refused, which is reported itself."""
    depth = len(item["loc"])
    return item["type"] == "too_short" and any(
        len(other["loc"]) > depth and other["loc"][:depth] == item["loc"] for other in items
    )


def _line(
    item: Mapping[str, Any], path: Path, model: type[BaseModel], prefix: str, renamed: Mapping[str, str]
) -> str:
    field = _dotted(path, prefix, renamed)
    value = _short(item.get("input"))
    if item["type"] == "extra_forbidden":
        return (
            f"{field}: unknown key (value {value}); {_suggestion(str(path[-1]), _keys_at(model, path[:-1]))}"
        )
    if item["type"] == "missing":
        return f"{field}: is missing; add it"
    message = str(item["msg"]).removeprefix("Value error, ")
    if isinstance(item.get("ctx", {}).get("error"), TrimtabError):
        # Raised by a parser of ours for a part of the input: it names the field from that part down.
        top = str(path[0]) if path else ""
        return "\n".join(f"{field}{line.removeprefix(top)}" for line in message.splitlines())
    # A validator of ours names field, value and fix itself; pydantic's own messages name only the rule.
    if item["type"] == "value_error":
        top, dot, rest = message.partition(".")
        if not path and dot and renamed and top in renamed:
            return f"{renamed[top]}.{rest}"
        return f"{field}.{message}" if field else message
    return f"{field}: {value} is not valid: {_rule(item, message)}"


def _rule(item: Mapping[str, Any], message: str) -> str:
    text = rule(str(item["type"]), message, item.get("ctx", {}))
    return f"{text[0].lower()}{text[1:]}"


def _dotted(path: Path, prefix: str, renamed: Mapping[str, str]) -> str:
    parts = [str(part) for part in path]
    if parts and parts[0] in renamed:
        return ".".join([renamed[parts[0]], *parts[1:]])
    return ".".join([prefix, *parts] if prefix else parts)


def _in_input(loc: Path, raw: Any, *, keep_last: bool) -> Path:
    """The location without what pydantic adds for unions: only steps that exist in the input."""
    kept: list[str | int] = []
    here = raw
    for position, part in enumerate(loc):
        is_last = position == len(loc) - 1
        found, child = _child(here, part)
        if found:
            here = child
        elif not (is_last and keep_last):
            continue
        kept.append(part)
    return tuple(kept)


def _child(here: Any, part: str | int) -> tuple[bool, Any]:
    if isinstance(here, Mapping):
        return part in here, here.get(part)
    if isinstance(here, list | tuple) and isinstance(part, int) and part < len(here):
        return True, here[part]
    return False, None


def _suggestion(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known keys: {', '.join(known)}" if known else "remove it"


def _keys_at(model: type[BaseModel], path: Path) -> list[str]:
    """Names that a user may write at this place of the model."""
    here: list[Any] = [model]
    for part in path:
        here = [inner for kind in here for inner in _step(kind, part)]
    return list(dict.fromkeys(name for kind in here if _is_model(kind) for name in _names(kind)))


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _step(kind: Any, part: str | int) -> list[Any]:
    if _is_model(kind):
        for name, field in kind.model_fields.items():
            if part in (name, field.alias):
                return _plain(field.annotation)
        return []
    if get_origin(kind) in (dict, list, tuple):
        return _plain(get_args(kind)[-1 if get_origin(kind) is dict else 0])
    return []


def _plain(annotation: Any) -> list[Any]:
    """The members of an annotation, without Annotated, Optional and Union."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _plain(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [inner for argument in get_args(annotation) for inner in _plain(argument)]
    return [annotation]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
