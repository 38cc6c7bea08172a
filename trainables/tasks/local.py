"""The questions of the math task's local files, read before a sweep without the data-set library.

The library takes seconds to import and copies every file into its cache.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from trainables.errors import SpecError
from trainables.tasks.base import Split
from trainables.tasks.math_qa import READERS, no_column, read_columns
from trainables.tasks.overlap import Overlap, check, compare

if TYPE_CHECKING:
    from trainables.config import TaskConfig


def local_overlap(task: TaskConfig) -> Overlap | None:
    """Compare those splits of the math task that are local files. Uses no network.

    Returns:
        None for every other task: the built-in one's splits are disjoint by construction, and a class of the
        user's own is not run before the sweep.

    Raises:
        SpecError: A file cannot be read or lacks `task.question_field`, or two splits share more problems
            than `task.overlap_limit` allows.
    """
    if task.name != "math":
        return None
    sources: dict[Split, str | None] = {split: getattr(task, split) for split in get_args(Split)}
    given = {split: source for split, source in sources.items() if source is not None}
    local = {split: source for split, source in given.items() if Path(source).is_file()}
    questions = {
        split: _questions(f"task.{split}", source, split, task.question_field)
        for split, source in local.items()
    }
    found = compare(questions, unread=[split for split in given if split not in local])
    check(found, task.overlap_limit, sources)
    return found


def _questions(field: str, source: str, split: Split, column: str) -> list[str]:
    """Return the question column as text, as the task puts it into its prompts."""
    path = Path(source)
    columns: dict[str, list[Any]] | None
    if READERS.get(path.suffix) == "parquet":
        columns = _parquet(field, path, column)
    else:
        columns = _json_lines(path, column)
    if columns is None:
        # An array, or something broken: the library reads it or says what is wrong with it.
        columns = read_columns(field, source, split)
    if column not in columns:
        raise no_column("question_field", source, column, columns)
    return [str(question) for question in columns[column]]


def _parquet(field: str, path: Path, column: str) -> dict[str, list[Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path).names
        if column not in names:
            return {name: [] for name in names}
        table = pyarrow.parquet.read_table(path, columns=[column])
    except (OSError, pyarrow.ArrowException) as error:
        raise SpecError(f"{field}: {str(path)!r} is not readable as parquet ({error})") from error
    columns: dict[str, list[Any]] = table.to_pydict()
    return columns


def _json_lines(path: Path, column: str) -> dict[str, list[Any]] | None:
    """Return the column of a file with one object a line; None if the file is of another form."""
    try:
        with path.open(encoding="utf-8") as file:
            values = [json.loads(line)[column] for line in file if line.strip()]
    except (ValueError, KeyError, TypeError):
        return None
    return {column: values}
