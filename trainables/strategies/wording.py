"""Pydantic's rules in the words of this project. Imports only the standard library."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

WHOLE = ("int_type", "int_parsing", "int_from_float", "int_parsing_size")
NUMBER = ("float_type", "float_parsing")
MAPPING = ("model_type", "model_attributes_type", "dict_type", "mapping_type", "dataclass_type")
LIST = ("tuple_type", "list_type")


def rule(kind: str, message: str, context: Mapping[str, Any]) -> str:
    """What a value must be, such as `must be less than 1`; `kind`, `message` and `context` are pydantic's."""
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
    return message.replace("Input should be", "must be").replace("String should", "must")


def did_you_mean(written: object, known: Iterable[str]) -> str:
    """`did you mean 'alpha'? ` where something close is known, else nothing."""
    close = difflib.get_close_matches(str(written), list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""
