"""The problems in the math task's local files, read before a sweep without the data-set library.

The library takes seconds to import and copies every file into its cache.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from trainables.errors import SpecError
from trainables.tasks.base import Split
from trainables.tasks.math_qa import answers_in, named_columns, questions_in, read_columns
from trainables.tasks.overlap import Overlap, check, compare
from trainables.tasks.source import local_file

if TYPE_CHECKING:
    from trainables.config import TaskConfig


def local_overlap(task: TaskConfig) -> Overlap | None:
    """Compare those splits of the math task that are local files. Uses no network.

    Returns:
        None for every other task: the built-in one's splits are disjoint by construction, and a class of the
        user's own is not run before the sweep.

    Raises:
        SpecError: A file cannot be read, lacks a column that the task names, or has a row without a question
            or a reference answer; or two splits share more problems than `task.overlap_limit` allows.
    """
    if task.name != "math":
        return None
    sources: dict[Split, str | None] = {split: getattr(task, split) for split in get_args(Split)}
    given = {split: source for split, source in sources.items() if source is not None}
    local = {split: source for split, source in given.items() if local_file(source).path.is_file()}
    questions = {split: _questions(task, source, split) for split, source in local.items()}
    found = compare(questions, unread=[split for split in given if split not in local])
    check(found, task.overlap_limit, sources)
    return found


def _questions(task: TaskConfig, source: str, split: Split) -> list[str]:
    """Return the questions as text, as the task puts them into its prompts. Their answers are there."""
    field, file = f"task.{split}", local_file(source)
    wanted = list(dict.fromkeys(named_columns(task).values()))
    columns = (
        _parquet(field, file.path, wanted) if file.reader == "parquet" else _json_lines(file.path, wanted)
    )
    if columns is None:
        # An array, or something broken or missing: the library reads it, or says what is wrong with it.
        columns = read_columns(field, source, split)
    else:
        columns = file.cut(field, columns)
    questions = questions_in(task, source, columns)
    answers_in(task, source, columns)
    return questions


def _parquet(field: str, path: Path, wanted: list[str]) -> dict[str, list[Any]] | None:
    """Return these columns of a file; None if it lacks one."""
    import pyarrow
    import pyarrow.parquet

    try:
        if not set(wanted) <= set(pyarrow.parquet.read_schema(path).names):
            return None
        table = pyarrow.parquet.read_table(path, columns=wanted)
    except (OSError, pyarrow.ArrowException) as error:
        raise SpecError(f"{field}: {str(path)!r} is not readable as parquet ({error})") from error
    columns: dict[str, list[Any]] = table.to_pydict()
    return columns


def _json_lines(path: Path, wanted: list[str]) -> dict[str, list[Any]] | None:
    """Return these columns of a file with one object a line; None if it is of another form or lacks one."""
    try:
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file if line.strip()]
        return {column: [row[column] for row in rows] for column in wanted}
    except (ValueError, KeyError, TypeError):
        return None
