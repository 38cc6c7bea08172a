"""Pydantic's validation errors as one error of our own tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from trainables.strategies.wording import explain
from trimtab.errors import SpecError, TrimtabError


def spec_error(
    error: ValidationError,
    model: type[BaseModel],
    raw: Any,
    *,
    prefix: str = "",
    renamed: Mapping[str, str] | None = None,
) -> TrimtabError:
    """Return one error that names each bad field, its value and the fix; the arguments are `explain`'s.

    An error of our own tree that a validator of the whole model raised is returned as it is.
    """
    for item in error.errors(include_url=False):
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, TrimtabError) and not item["loc"]:
            return cause
    lines = explain(error, model, raw, prefix=prefix, renamed=renamed)
    return SpecError(lines[0] if len(lines) == 1 else "\n".join(["", *(f"  {line}" for line in lines)]))
