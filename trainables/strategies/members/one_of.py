"""A field of a pydantic model that is one member of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class OneOf:
    """Marks a field of a pydantic model as an axis: a member chosen from `table` by its `type`.

    The axis accepts a mapping with a `type`, a bare string (that type with its defaults) or an import path.
    """

    table: Mapping[str, type[BaseModel]]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices = {name: handler.generate_schema(member) for name, member in self.table.items()}
        union = core_schema.tagged_union_schema(choices, discriminator="type")
        return core_schema.no_info_before_validator_function(_open, union)


def _open(value: object) -> object:
    """Open a bare string: a type with its defaults, or an import path."""
    if isinstance(value, str):
        return {"type": "custom", "path": value} if ":" in value else {"type": value}
    return value
