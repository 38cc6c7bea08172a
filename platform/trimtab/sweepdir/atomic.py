"""A text file that is written whole or not at all, and how it is read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trimtab.errors import StorageError


def write_whole(file: Path, text: str) -> None:
    """Write `text` to `file` in one step: a reader, or a crash, sees the old content or the new one."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def read_mapping(file: Path, fix: str) -> dict[str, Any]:
    """Return the mapping in a JSON file that trimtab wrote.

    Raises:
        StorageError: it holds something else; the message ends with the `fix`.
        FileNotFoundError: there is no such file.
    """
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise StorageError(f"{file} is damaged: it does not hold what trimtab wrote there; {fix}")
    return found
