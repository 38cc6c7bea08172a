"""Pydantic's errors in the words of this project: field, value, fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from trainables.strategies.members.base import OneOf

WHOLE = ("int_type", "int_parsing", "int_from_float", "int_parsing_size")
NUMBER = ("float_type", "float_parsing")
MAPPING = ("model_type", "model_attributes_type", "dict_type", "mapping_type", "dataclass_type")
LIST = ("tuple_type", "list_type")
FIELD = re.compile(r"[A-Za-z_][\w.]*: ")
"""How a message begins that names its field itself."""

Path = tuple[str | int, ...]


def explain(
    error: ValidationError,
    model: type[BaseModel],
    raw: Any,
    *,
    prefix: str = "",
    renamed: Mapping[str, str] | None = None,
) -> list[str]:
    """Return a line for each bad field of `raw`: `learner.lr: -1 must be greater than 0`.

    `prefix` is where `raw` lies in the user's file; `renamed` maps a top-level key of `raw` to where that
    part really is.
    """
    items = error.errors(include_url=False)
    rules: dict[str, list[str]] = {}
    for item in items:
        if not _follows(item, items):
            for head, broken in _lines(item, model, raw, prefix, renamed or {}):
                known = rules.setdefault(head, [])
                if broken and broken not in known:
                    known.append(broken)
    # The branches of a union each report why they refused the value: one line for all of them.
    return [" ".join([head, *_either(broken)]) for head, broken in rules.items()]


def rule(kind: str, message: str, context: Mapping[str, Any]) -> str:
    """Return what a value must be, such as `must be less than 1`; the arguments are pydantic's."""
    plain = {
        **dict.fromkeys(WHOLE, "must be a whole number"),
        **dict.fromkeys(NUMBER, "must be a number"),
        **dict.fromkeys(MAPPING, "must be a mapping (key: value)"),
        **dict.fromkeys(LIST, "must be a list"),
        "bool_type": "must be true or false",
        "bool_parsing": "must be true or false",
        "string_type": "must be text",
        "finite_number": "must be finite",
    }.get(kind)
    if plain is not None:
        return plain
    if kind in ("too_short", "too_long"):
        least = kind == "too_short"
        count = context["min_length" if least else "max_length"]
        return f"must have at {'least' if least else 'most'} {count} item{'' if count == 1 else 's'}"
    if kind == "union_tag_invalid":
        known = context["expected_tags"]
        hint = did_you_mean(context["tag"], re.findall(r"'([^']*)'", known)).rstrip()
        return f"must be one of {known}{hint and '; '}{hint}"
    if kind == "union_tag_not_found":
        return f"must have a {context['discriminator']}"
    text = message.replace("Input should be", "must be").replace("String should", "must")
    return text if text.startswith(("must ", "is ")) else f"is not valid: {text}"


def did_you_mean(written: object, known: Iterable[str]) -> str:
    """Return `did you mean 'alpha'? ` where something close is known, else nothing."""
    close = difflib.get_close_matches(str(written), list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def _follows(item: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a collection is 'too short' only because an item was refused, which has its own line."""
    depth = len(item["loc"])
    return item["type"] == "too_short" and any(
        len(other["loc"]) > depth and other["loc"][:depth] == item["loc"] for other in items
    )


def _either(rules: list[str]) -> Iterator[str]:
    if rules:
        first, *others = rules
        yield " or ".join([first, *(other.removeprefix("must be ") for other in others)])


def _lines(
    item: Mapping[str, Any], model: type[BaseModel], raw: Any, prefix: str, renamed: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield one error as (field and value, rule that it breaks); no rule where the first says all."""
    kind, context = item["type"], item.get("ctx", {})
    path = _in_input(item["loc"], raw, keep_last=kind in ("missing", "extra_forbidden"))
    field = _dotted(path, prefix, renamed)
    message = str(item["msg"]).removeprefix("Value error, ")
    if kind == "value_error":  # from a validator of ours, which names field, value and fix itself
        yield from ((_placed(line, path, field, renamed), "") for line in message.splitlines())
    elif kind == "missing":
        yield f"{field}: is missing; add it", ""
    elif kind == "extra_forbidden":
        known = _keys_at(model, item["loc"][:-1])
        fix = f"its keys are {', '.join(known)}" if known else "remove it"
        hint = did_you_mean(path[-1], known).rstrip() or fix
        yield f"{field}: unknown key (value {_short(item['input'])}); {hint}", ""
    else:
        value = context["tag"] if kind == "union_tag_invalid" else item["input"]
        yield f"{field}: {_short(value)}", rule(kind, message, context)


def _placed(line: str, path: Path, field: str, renamed: Mapping[str, str]) -> str:
    """Return a validator's message at its place in the user's file: it names a field from its model down."""
    top, dot, rest = line.partition(".")
    if not path and dot and top in renamed:
        return f"{renamed[top]}.{rest}"
    own = str(path[-1]) if path else ""
    if own and line.startswith((f"{own}.", f"{own}:")):
        return f"{field}{line.removeprefix(own)}"
    if not field:
        return line
    return f"{field}.{line}" if FIELD.match(line) else f"{field}: {line}"


def _dotted(path: Path, prefix: str, renamed: Mapping[str, str]) -> str:
    parts = [str(part) for part in path]
    if parts and parts[0] in renamed:
        return ".".join([renamed[parts[0]], *parts[1:]])
    return ".".join([prefix, *parts] if prefix else parts)


def _in_input(loc: Path, raw: Any, *, keep_last: bool) -> Path:
    """Return the location without what pydantic adds for unions: only steps that exist in the input."""
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


def _keys_at(model: type[BaseModel], place: Path) -> list[str]:
    """Return the names that a user may write at this place of the model."""
    here: list[Any] = [model]
    for part in place:
        here = [inner for kind in here for inner in _step(kind, part)] or _tagged(here, part)
    names = [name for kind in here if _is_model(kind) for name in _names(kind)]
    return list(dict.fromkeys(names))


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _step(kind: Any, part: str | int) -> list[Any]:
    if _is_model(kind):
        for name, field in kind.model_fields.items():
            if part in (name, field.alias):
                tables = [mark.table for mark in field.metadata if isinstance(mark, OneOf)]
                return list(tables[0].values()) if tables else _plain(field.annotation)
        return []
    if get_origin(kind) in (dict, list, tuple):
        return _plain(get_args(kind)[-1 if get_origin(kind) is dict else 0])
    return []


def _tagged(kinds: list[Any], tag: str | int) -> list[Any]:
    """Return a union's members that go by the tag in pydantic's path; all of them if none does."""
    types = [(kind, kind.model_fields.get("type")) for kind in kinds if _is_model(kind)]
    return [kind for kind, field in types if field and tag in get_args(field.annotation)] or kinds


def _plain(annotation: Any) -> list[Any]:
    """Return the members of an annotation, without Annotated, Optional and Union."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _plain(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [inner for argument in get_args(annotation) for inner in _plain(argument)]
    return [annotation]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
