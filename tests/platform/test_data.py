"""What is wrong with the math task's files is said by `plan`, before anything starts; slices of files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from trainables.config import TaskConfig
from trainables.tasks.local import local_overlap
from trainables.tasks.math_qa import MathQA
from trimtab.cli.main import main
from trimtab.errors import SpecError
from trimtab.sweepspec.load import load_spec

Row = dict[str, Any]


def rows(first: int, count: int) -> list[Row]:
    return [
        {"question": f"What is {n} + 1?", "answer": str(n + 1), "level": n % 3}
        for n in range(first, first + count)
    ]


def write(file: Path, written: list[Row]) -> Path:
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(written), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in written))
    return file


@pytest.fixture
def task(tmp_path: Path) -> dict[str, Any]:
    """A math task with 20 training, 10 validation and 10 test problems."""
    return {
        "name": "math",
        "train": str(write(tmp_path / "train.jsonl", rows(0, 20))),
        "validation": str(write(tmp_path / "validation.parquet", rows(100, 10))),
        "test": str(write(tmp_path / "test.jsonl", rows(200, 10))),
    }


def plan(task: Mapping[str, Any], *overrides: str) -> Result:
    sets = [f"trial.task={json.dumps(task)}", *overrides]
    return CliRunner().invoke(main, ["plan", "v05_small", *(part for one in sets for part in ("--set", one))])


def refused(done: Result, *parts: str) -> None:
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.output.startswith("Error: trial.task.")
    for part in parts:
        assert part in done.output


@pytest.mark.parametrize("field", ["question_field", "answer_field", "stratum_field"])
def test_a_misspelt_column_is_named_with_those_that_there_are(task: dict[str, Any], field: str) -> None:
    refused(plan({**task, field: "answr"}), f"task.{field}", "'answr'", "answer, level, question")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("column", ["question", "answer"])
def test_a_column_that_one_file_lacks(task: dict[str, Any], split: str, column: str) -> None:
    file = Path(task[split])
    write(file, [{name: value for name, value in row.items() if name != column} for row in rows(300, 5)])
    refused(plan(task), f"task.{column}_field", str(file), f"no column '{column}'")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("column", ["question", "answer"])
@pytest.mark.parametrize("value", [None, "  "])
def test_a_row_without_a_question_or_an_answer(
    task: dict[str, Any], tmp_path: Path, suffix: str, column: str, value: str | None
) -> None:
    written = rows(0, 5)
    written[3][column] = value
    file = write(tmp_path / f"other.{suffix}", written)
    refused(plan({**task, "train": str(file)}), f"task.{column}_field", f"{file}', row 3")


def test_a_row_that_lacks_the_column(task: dict[str, Any]) -> None:
    written = rows(0, 5)
    del written[2]["answer"]
    write(Path(task["train"]), written)
    refused(plan(task), "task.answer_field", "row 2")


def test_a_file_without_problems(task: dict[str, Any]) -> None:
    Path(task["train"]).write_text("")
    refused(plan(task), "task.train", task["train"], "holds no rows")


def test_a_missing_test_split_is_said_where_it_will_be_missed(task: dict[str, Any]) -> None:
    del task["test"]
    done = plan(task)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.replace("│", " ").split())
    assert "trial.task.test: not set, so that trimtab confirm would refuse this sweep" in said


@pytest.mark.parametrize(
    ("cut", "first", "count"),
    [("[:5]", 0, 5), ("[5:]", 5, 15), ("[5:7]", 5, 2), ("[-3:]", 17, 3), ("[:]", 0, 20), ("[: 99]", 0, 20)],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_slice_of_a_file(
    task: dict[str, Any], tmp_path: Path, suffix: str, cut: str, first: int, count: int
) -> None:
    """The plan and the run see the same rows."""
    file = write(tmp_path / f"all.{suffix}", rows(0, 20))
    config = TaskConfig(**{**task, "train": f"{file}{cut}"})
    assert load_spec("v05_small", [f"trial.task={config.model_dump_json()}"])
    found = local_overlap(config)
    assert found is not None
    assert found.parts[0].problems == count
    problems = MathQA(config).split("train")
    assert [problem.prompt for problem in problems] == [row["question"] for row in rows(first, count)]


def test_slices_in_per_cent_are_disjoint_parts_of_one_file(task: dict[str, Any]) -> None:
    file = task["train"]
    parts = {"train": f"{file}[:33%]", "validation": f"{file}[33%:66%]", "test": f"{file}[66%:]"}
    made = MathQA(TaskConfig(**{**task, **parts}))
    splits = [made.split(name) for name in ("train", "validation", "test")]
    assert [len(problems) for problems in splits] == [7, 6, 7]
    assert len({problem.prompt for problems in splits for problem in problems}) == 20


@pytest.mark.parametrize(
    ("cut", "part"),
    [
        ("[50:]", "selects none of its 20 rows"),
        ("[:x]", "is no slice"),
        ("[3]", "is no slice"),
        ("[]", "is no slice"),
    ],
)
def test_a_slice_that_cannot_be_meant(task: dict[str, Any], cut: str, part: str) -> None:
    refused(
        plan({**task, "train": task["train"] + cut}),
        "task.train",
        cut,
        part,
        "[:512]" if "is" in part else "",
    )


def test_a_slice_of_a_file_that_is_not_there(task: dict[str, Any]) -> None:
    refused(plan({**task, "train": "no.jsonl[:5]"}), "trial.task.train: 'no.jsonl[:5]' is not a file here")


def test_a_file_whose_name_looks_like_a_slice(task: dict[str, Any], tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", rows(0, 20)).rename(tmp_path / "all.jsonl[:5].jsonl")
    with pytest.raises(SpecError, match="overlap_limit"):
        local_overlap(TaskConfig(**{**task, "validation": str(file)}))
