"""The math task on the real files, wherever they lie, and on small ones made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from speed import patience

from trainables.config import TaskConfig
from trainables.strategies.batch import Verdict
from trainables.tasks.load import load_task
from trainables.tasks.math_qa import reference_answer
from trainables.verifier.verifier import Verifier
from trimtab.errors import SpecError

REAL = {
    "aime24": (30, {}),
    "amc23": (40, {}),
    "gsm8k": (1319, {}),
    "minerva_math": (272, {"question_field": "problem", "answer_field": "solution"}),
    "olympiadbench": (675, {"answer_field": "final_answer", "stratum_field": "subfield"}),
}


@pytest.fixture(scope="module")
def math_verifier() -> Any:
    with Verifier("trainables.verifier.judge_math:math_equal", processes=2) as verifier:
        yield verifier


@pytest.mark.parametrize("name", REAL)
def test_real_data(shared_data: Path, math_verifier: Verifier, name: str) -> None:
    """Every reference is read, and all but at most one of a file's are judged equal to themselves."""
    count, fields = REAL[name]
    source = str(shared_data / "math" / f"{name}.jsonl")
    task = load_task(TaskConfig(name="math", test=source, template="Q: {question}\nA:", **fields))
    problems = task.split("test")
    assert len(problems) == count
    assert all(p.prompt.startswith("Q: ") and p.prompt.endswith("\nA:") and p.answer for p in problems)
    math_verifier.check_golden(problems, sample=300, max_failure_rate=0.004)
    if name == "olympiadbench":
        assert {p.stratum for p in problems} == {0, 1, 2, 3}


def test_real_answers(shared_data: Path, math_verifier: Verifier) -> None:
    source = str(shared_data / "math" / "gsm8k.jsonl")
    problem = load_task(TaskConfig(name="math", train=source)).split("train")[0]
    assert problem.answer == "$18$"
    said = [
        "She makes $9 * 2 = 18$ dollars.\n#### 18",
        "so \\boxed{18}",
        "\\boxed{18.0}",
        "\\boxed{17}",
        "",
        "I don't know",
    ]
    judged = math_verifier.verify([(response, problem.answer) for response in said])
    assert [j.correct for j in judged] == [1, 1, 1, 0, 0, 0]
    assert {j.verdict for j in judged} == {Verdict.OK}


def test_an_answer_that_never_ends_is_a_timeout(math_verifier: Verifier) -> None:
    """math-verify's own time-out is off; the verifier's deadline holds.

    It is long enough for a process that stands still for some seconds, as one of a busy machine may.
    """
    endless = "\\boxed{9^{9^{9^{9}}} + 1}"
    with Verifier(math_verifier._judge, timeout_s=patience(6.0)) as verifier:
        verdicts = [
            j.verdict
            for j in verifier.verify(
                [("\\boxed{5}", "$5$"), (endless, "$7^{7^{7^{8}}}$"), ("\\boxed{5}", "$5$")]
            )
        ]
    assert verdicts == [Verdict.OK, Verdict.TIMEOUT, Verdict.OK]


def test_a_reference_without_an_expression_is_an_error(math_verifier: Verifier) -> None:
    (judgement,) = math_verifier.verify([("\\boxed{5}", "no idea")])
    assert judgement.verdict == Verdict.ERROR
    assert "holds no expression that math-verify can read" in judgement.detail


@pytest.mark.parametrize(
    ("value", "reference"),
    [
        (27.0, "$27$"),
        (2.5, "$2.5$"),
        (7, "$7$"),
        ("\\frac{1}{2}", "$\\frac{1}{2}$"),
        ("$x+1$", "$x+1$"),
        (["$1$", "2"], "$1$, $2$"),
        ("reasoning\n#### 1,234", "$1234$"),
        ("so $x$ is \\boxed{\\frac{1}{2}} or \\boxed{\\frac{3}{4}} indeed", "$\\frac{3}{4}$"),
        ("an open \\boxed{3", "$an open \\boxed{3$"),
    ],
)
def test_reference_forms(value: object, reference: str) -> None:
    assert reference_answer(value, where="here") == reference


@pytest.mark.parametrize("value", [None, "", "  ", [], "done ####"])
def test_an_empty_reference(value: object) -> None:
    with pytest.raises(SpecError, match="here has no reference answer; drop the row"):
        reference_answer(value, where="here")


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [{"q": f"{i}+{i}?", "a": 2 * i, "level": "hard" if i % 2 else "easy"} for i in range(6)]


def config(**fields: Any) -> TaskConfig:
    return TaskConfig(name="math", question_field="q", answer_field="a", **fields)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_local_files(tmp_path: Path, rows: list[dict[str, Any]], suffix: str) -> None:
    path = tmp_path / f"data{suffix}"
    if suffix == ".parquet":
        import pandas as pd

        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = load_task(config(train=str(path), stratum_field="level")).split("train")
    assert [p.prompt for p in problems] == [row["q"] for row in rows]
    assert [p.answer for p in problems] == ["$0$", "$2$", "$4$", "$6$", "$8$", "$10$"]
    assert [p.stratum for p in problems] == [0, 1, 0, 1, 0, 1]


def test_strata_agree_between_splits(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    task = load_task(
        config(
            train=str(tmp_path / "train.jsonl"),
            validation=str(tmp_path / "val.jsonl"),
            stratum_field="level",
            overlap_limit=1.0,
        )
    )
    assert [p.stratum for p in task.split("validation")] == [1, 0, 1, 0, 1, 0]
    assert [p.stratum for p in task.split("train")] == [0, 1, 0, 1, 0, 1]


def test_trouble_is_named(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "broken.jsonl").write_text("{not json\n")
    (tmp_path / "data.txt").write_text("hello")
    for fields, message in [
        ({}, r"task\.train: not set"),
        ({"train": str(tmp_path / "no.jsonl")}, r"task\.train: '.*no.jsonl' does not exist"),
        ({"train": str(tmp_path / "data.txt")}, r"task\.train: .* unknown format; use one of .jsonl"),
        ({"train": str(tmp_path / "broken.jsonl")}, r"task\.train: .* is not readable as json"),
        ({"train": "no-such-owner/no-such-data"}, r"task\.train: .* neither a local file nor a data set"),
    ]:
        with pytest.raises(SpecError, match=message):
            load_task(config(**fields)).split("train")
    with pytest.raises(SpecError, match=r"task\.answer_field: .* has no column 'b'; use one of a, level, q"):
        load_task(TaskConfig(name="math", train=str(path), question_field="q", answer_field="b")).split(
            "train"
        )
    with pytest.raises(SpecError, match=r"task\.template: 'Q: ' never mentions the question"):
        load_task(config(train=str(path), template="Q: "))
