"""Files of records, in the format that V0 released: what a policy scored on which prompts.

One JSON object per line,
`{"dataset": "dapomath", "id": 5562, "model": "Qwen3-4B", "step": 16, "score": -0.4}`: `score` in [-1, 1] is
2 x (mean reward) - 1. `count`, the number of rollouts behind the mean, is trimtab's addition and optional
(the released files hold means of ten). Other keys are ignored. The prompts' texts are one JSON object,
`{"dapomath_5562": "text", ...}`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainables.errors import RecordError

ROW = "{dataset, id, model, step, score}"
RELEASED_COUNT = 10
"""Rollouts behind a score of the released files."""


@dataclass(frozen=True)
class Row:
    """What one policy scored on one prompt."""

    dataset: str
    id: str
    model: str
    step: int
    score: float
    count: int = RELEASED_COUNT
    origin: str = field(default="", compare=False)
    """File and line that the row was read from, for messages."""

    @property
    def key(self) -> str:
        """Return the key of the prompt's text."""
        return f"{self.dataset}_{self.id}"

    @property
    def policy(self) -> tuple[str, str, int]:
        """Return what the rows of one policy share: (dataset, model, step)."""
        return self.dataset, self.model, self.step

    @property
    def rate(self) -> float:
        """Return the mean reward, in [0, 1]."""
        return (self.score + 1.0) / 2.0


def read_rows(path: Path) -> list[Row]:
    """Read all rows of a file.

    Raises:
        RecordError: the file cannot be read, is empty, or holds a bad row, which is named by its line.
    """
    rows: list[Row] = []
    line_of: dict[tuple[str, str, int, str], int] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            raise RecordError(f"{path}:{number}: empty line; remove it")
        row = _parse(line, f"{path}:{number}")
        place = (*row.policy, row.id)
        if place in line_of:
            raise RecordError(
                f"{path}:{number}: prompt {row.key} of {row.model} at step {row.step} is on line "
                f"{line_of[place]} already; keep one of the two"
            )
        line_of[place] = number
        rows.append(row)
    if not rows:
        raise RecordError(f"{path}: holds no rows; give another file")
    return rows


def write_rows(path: Path, rows: Iterable[Row], *, append: bool = False) -> None:
    """Write rows in the released format, with `count`."""
    with path.open("a" if append else "w", encoding="utf-8") as file:
        for row in rows:
            number: int | str = int(row.id) if row.id.isdecimal() else row.id
            fields = {"dataset": row.dataset, "id": number, "model": row.model, "step": row.step}
            file.write(json.dumps({**fields, "score": row.score, "count": row.count}) + "\n")


def read_prompts(path: Path) -> dict[str, str]:
    """Read prompt texts, by "dataset_id".

    Raises:
        RecordError: the file cannot be read, or is not an object of texts.
    """
    try:
        found = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise RecordError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(found, dict):
        raise RecordError(f"{path}: holds a {type(found).__name__}; write one object of key: text")
    for key, text in found.items():
        if not isinstance(text, str) or not text.strip():
            raise RecordError(f"{path}: prompt {key!r} is {text!r}; write its text")
    return found


def texts_of(rows: Iterable[Row], prompts: Mapping[str, str], source: object = "the prompts") -> list[str]:
    """Return the prompt text of each row. `source`: named in the error if the rows were not read from a file.

    Raises:
        RecordError: some prompts have no text; they are named.
    """
    rows = list(rows)
    unknown = {row.key: row.origin for row in reversed(rows) if row.key not in prompts}
    if unknown:
        missing = sorted(unknown)
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise RecordError(
            f"{unknown[missing[0]] or source}: no text for {len(missing)} prompt(s) of the rows: {shown}; "
            f"add them to the prompts file, or give the file that belongs to these rows"
        )
    return [prompts[row.key] for row in rows]


def check_varied(rows: Iterable[Row]) -> None:
    """Check that the scores of every policy's rows differ.

    Raises:
        RecordError: the rows of a policy all have the same score.
    """
    rates: dict[tuple[str, str, int], list[float]] = {}
    origins: dict[tuple[str, str, int], str] = {}
    for row in rows:
        rates.setdefault(row.policy, []).append(row.rate)
        origins.setdefault(row.policy, f"{row.origin}: " if row.origin else "")
    for (dataset, model, step), values in rates.items():
        if min(values) == max(values):
            raise RecordError(
                f"{origins[dataset, model, step]}record of {model} at step {step} on {dataset}: all "
                f"{len(values)} rows score {2 * values[0] - 1:g}, so there is nothing to learn from; add "
                f"prompts, or leave it out"
            )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read ({error}); give another file") from error


def _parse(line: str, where: str) -> Row:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise RecordError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(found, dict):
        raise RecordError(f"{where}: holds a {type(found).__name__}, not an object; a row is {ROW}")
    missing = [name for name in ("dataset", "id", "model", "step", "score") if name not in found]
    if missing:
        raise RecordError(f"{where}: has no {', '.join(missing)}; a row is {ROW}")
    return Row(
        dataset=_name(found, "dataset", where),
        id=_name(found, "id", where),
        model=_name(found, "model", where),
        step=_whole(found, "step", 0, where),
        score=_score(found["score"], where),
        count=_whole({"count": RELEASED_COUNT, **found}, "count", 1, where),
        origin=where,
    )


def _name(found: Mapping[str, Any], field: str, where: str) -> str:
    value = found[field]
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise RecordError(f"{where}: {field}: {value!r} is not a name; write a text or a whole number")
    return str(value)


def _whole(found: Mapping[str, Any], field: str, low: int, where: str) -> int:
    value = found[field]
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise RecordError(f"{where}: {field}: {value!r} is not a whole number from {low}; correct it")
    return value


def _score(value: object, where: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(float(value)) or not -1.0 <= float(value) <= 1.0:  # type: ignore[arg-type]
        raise RecordError(f"{where}: score: {value!r} is outside [-1, 1]; write 2 x (mean reward) - 1")
    return float(value)  # type: ignore[arg-type]
