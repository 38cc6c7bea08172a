"""The `math` task: questions with a reference answer, from JSONL, Parquet or a hub data set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trainables.errors import SpecError
from trainables.tasks.base import Problem, Split, check_split
from trainables.tasks.overlap import check, compare
from trainables.tasks.source import READERS, local_file

if TYPE_CHECKING:
    from trainables.config import TaskConfig


class MathQA:
    """Question and reference answer columns of the user's own data, judged by math-verify.

    A reference may be a number, LaTeX, a list of them (an answer must give all), a worked solution that ends
    in `\\boxed{...}`, or one that ends in `#### answer` as GSM8K's do.
    """

    judge = "trainables.verifier.judge_math:math_equal"

    def __init__(self, config: TaskConfig) -> None:
        self._config = config
        if "{question}" not in config.template:
            raise SpecError(
                f"task.template: {config.template!r} never mentions the question; put {{question}} in it"
            )
        self._cache: dict[Split, tuple[Problem, ...]] = {}
        self._questions: dict[Split, list[str]] = {}

    def split(self, name: Split) -> Sequence[Problem]:
        """Return the split's problems in file order. Only a hub id uses the network.

        Raises:
            SpecError: The source is not set, missing, unreadable or without the named columns, a reference
                is empty, or the split shares more than `task.overlap_limit` with one that was read before.
        """
        check_split(name)
        if name not in self._cache:
            source: str | None = getattr(self._config, name)
            if source is None:
                raise SpecError(
                    f"task.{name}: not set; the math task needs a .jsonl or .parquet path or a hub id"
                )
            problems = tuple(self._problems(name, source))
            self._check_overlap()
            self._cache[name] = problems
        return self._cache[name]

    def _problems(self, name: Split, source: str) -> list[Problem]:
        config = self._config
        columns = read_columns(f"task.{name}", source, name)
        self._questions[name] = questions_in(config, source, columns)
        strata = self._strata(columns)
        return [
            Problem(
                prompt=config.template.replace("{question}", question),
                answer=answer,
                stratum=stratum,
            )
            for question, answer, stratum in zip(
                self._questions[name], answers_in(config, source, columns), strata, strict=True
            )
        ]

    def _check_overlap(self) -> None:
        """Compare what has been read so far. The plan of a sweep has seen local files only."""
        sources = {split: getattr(self._config, split) for split in self._questions}
        check(compare(self._questions), self._config.overlap_limit, sources)

    def _strata(self, columns: Mapping[str, list[Any]]) -> list[int]:
        if self._config.stratum_field is None:
            return [0] * len(columns[self._config.question_field])
        values = columns[self._config.stratum_field]
        return [self._stratum_names.setdefault(str(value), len(self._stratum_names)) for value in values]

    @cached_property
    def _stratum_names(self) -> dict[str, int]:
        """Stratum numbers by value, shared by the splits.

        The sorted training values are numbered first, so that the numbers do not depend on the order in which
        splits are read.
        """
        if self._config.train is None or self._config.stratum_field is None:
            return {}
        columns = read_columns("task.train", self._config.train, "train")
        values = {str(value) for value in columns.get(self._config.stratum_field, [])}
        return {value: number for number, value in enumerate(sorted(values))}


def named_columns(config: TaskConfig) -> dict[str, str]:
    """Return the column of each field that names one."""
    named = {"question_field": config.question_field, "answer_field": config.answer_field}
    return named | ({} if config.stratum_field is None else {"stratum_field": config.stratum_field})


def questions_in(config: TaskConfig, source: str, columns: Mapping[str, list[Any]]) -> list[str]:
    """Return the questions of a source that has every column that the task names.

    Raises:
        SpecError: a column is missing, or a row has no question.
    """
    for field, column in named_columns(config).items():
        if column not in columns:
            raise SpecError(
                f"task.{field}: {source!r} has no column {column!r}; use one of {', '.join(sorted(columns))}"
            )
    questions = columns[config.question_field]
    for row, question in enumerate(questions):
        if question is None or not str(question).strip():
            raise SpecError(
                f"task.question_field: {source!r}, row {row} has no {config.question_field!r}; drop the row "
                "or name another column"
            )
    return [str(question) for question in questions]


def answers_in(config: TaskConfig, source: str, columns: Mapping[str, list[Any]]) -> list[str]:
    """Return the reference answers of a source, as math-verify reads them.

    Raises:
        SpecError: a row has none.
    """
    answers = columns[config.answer_field]
    return [reference_answer(answer, where=f"{source!r}, row {row}") for row, answer in enumerate(answers)]


def read_columns(field: str, source: str, split: str) -> dict[str, list[Any]]:
    """Read all columns of a local file, of a slice of one, or of a hub data set.

    A hub data set is `owner/name[/configuration][:split]`, where the split may be a slice such as
    `train[:512]`.

    Raises:
        SpecError: There is no such source, or it cannot be read; names `field`.
    """
    import datasets

    datasets.disable_progress_bars()
    file = local_file(source)
    path, reader = file.path, file.reader
    if reader is None and not path.exists():
        hub_id, _, hub_split = source.partition(":")
        owner, _, rest = hub_id.partition("/")
        dataset, _, configuration = rest.partition("/")
        try:
            loaded = datasets.load_dataset(
                f"{owner}/{dataset}" if dataset else owner, configuration or None, split=hub_split or split
            )
        except (OSError, ValueError) as error:
            raise SpecError(
                f"{field}: {source!r} is neither a local file nor a data set that the hub has ({error}); "
                "give a .jsonl or .parquet path, or `owner/name[/configuration][:split]`"
            ) from error
    elif not path.is_file():
        raise SpecError(f"{field}: {source!r} does not exist; give the path of a .jsonl or .parquet file")
    elif reader is None:
        raise SpecError(f"{field}: {source!r} is of an unknown format; use one of {', '.join(READERS)}")
    else:
        try:
            loaded = datasets.load_dataset(reader, data_files=str(path), split="train")
        except datasets.exceptions.DatasetGenerationError as error:
            raise SpecError(f"{field}: {source!r} is not readable as {reader} ({error.__cause__})") from error
        return file.cut(field, loaded.to_dict())
    columns: dict[str, list[Any]] = loaded.to_dict()
    return columns


def reference_answer(value: object, where: str) -> str:
    """Write a reference in the form that math-verify reads: LaTeX between dollars.

    Raises:
        SpecError: The reference is missing or empty; names `where`.
    """
    if isinstance(value, list):
        parts = [reference_answer(item, where) for item in value]
        if parts:
            return ", ".join(parts)
    elif isinstance(value, float) and value.is_integer():
        return f"${int(value)}$"
    elif value is not None and (text := _final(str(value)).strip()):
        return text if "$" in text else f"${text}$"
    raise SpecError(
        f"task.answer_field: {where} has no reference answer; drop the row or name another column"
    )


def _final(text: str) -> str:
    """Return the final answer of a worked solution; the text itself if it is a bare answer."""
    if "####" in text:
        return re.sub(r"(?<=\d),(?=\d{3})", "", text.rsplit("####", 1)[1])
    start = text.rfind("\\boxed{")
    if start < 0:
        return text
    depth = 0
    begin = start + len("\\boxed{")
    for end in range(begin - 1, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth == 0:
            return text[begin:end]
    return text
