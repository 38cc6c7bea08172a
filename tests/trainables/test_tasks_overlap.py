"""Splits that share problems: what counts as the same question, what is counted, and what is refused."""

from __future__ import annotations

import json
import time
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from speed import patience

from trainables.config import TaskConfig
from trainables.errors import SpecError
from trainables.tasks.base import Split
from trainables.tasks.load import load_task
from trainables.tasks.local import local_overlap
from trainables.tasks.overlap import compare, lines, normalised

REAL = {
    "aime24": "problem",
    "amc23": "question",
    "gsm8k": "question",
    "minerva_math": "problem",
    "olympiadbench": "question",
}
TOKENS = st.sampled_from(
    [
        "\\",
        "\\\\",
        "\\,",
        "\\quad",
        "\\left",
        "\\(",
        "$",
        " ",
        "\n",
        ".",
        "?",
        "'",
        "\u2019",
        "\u0301",
        "e",
        "İ",
        "Σ",
        "1",
    ]
)


@given(st.one_of(st.text(), st.lists(TOKENS).map("".join)))
def test_the_normal_form_is_its_own_normal_form(question: str) -> None:
    once = normalised(question)
    assert normalised(once) == once


@given(st.one_of(st.text(), st.lists(TOKENS).map("".join)))
def test_white_space_around_a_question_says_nothing(question: str) -> None:
    assert normalised(f"\n  {question.strip()}\t ") == normalised(question.strip())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is $x + 1$?", "what  is\nx + 1"),
        (r"Find \(x\,y\).", r"Find $x\quad y$"),
        (r"Is $\left( a \right)$ prime?", "Is ( a ) prime"),
        ("Jane’s “best” day – ever", "Jane's best day - ever"),  # noqa: RUF001
        ("ﬁnd ｘ²", "find x2"),
        (r"It costs \$5.", "It costs $5"),
    ],
)
def test_two_copies_of_a_question(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3+4", "3-4"),
        ("2*(3+4)", "(2*3)+4"),
        ("1.5 apples", "15 apples"),
        ("What is 5!", "What is 5"),
        ("f'(x)", "f(x)"),
        (r"\frac{1}{2}", r"\frac{2}{1}"),
        (r"a \leftarrow b", r"a \rightarrow b"),
        ("", "x"),
    ],
)
def test_two_questions(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_counts_by_hand() -> None:
    found = compare(
        {
            "train": ["A b?", "a  b", "c", "d"],
            "validation": ["c", "D.", "x", "y"],
            "test": ["X", "z", "A b?", "A b?", "q"],
        }
    )
    assert [(p.split, p.problems, p.repeated) for p in found.parts] == [
        ("train", 4, 1),
        ("validation", 4, 0),
        ("test", 5, 1),
    ]
    assert [(p.first, p.second, p.exact, p.normalised, p.rate) for p in found.pairs] == [
        ("train", "validation", 1, 2, 0.5),
        ("train", "test", 2, 2, 0.4),
        ("validation", "test", 0, 1, 0.2),
    ]
    assert found.pairs[0].examples == ("c", "D.")
    assert lines(found) == [
        "train 4 (1 repeated), validation 4, test 5 (1 repeated) problems",
        "overlap with train: validation 1 exact, 2 normalised (50 %); test 2 exact, 2 normalised (40 %)",
        "overlap with validation: test 0 exact, 1 normalised (20 %)",
    ]


def test_an_empty_split_overlaps_with_nothing() -> None:
    assert [pair.rate for pair in compare({"train": ["a"], "test": []}).pairs] == [0.0]


def test_a_hundred_thousand_problems_take_about_a_second() -> None:
    text = (
        "A train leaves at noon and travels $d = %d$ km at 80 km/h\\, without a stop; when does it arrive? "
    )
    questions = [2 * (text % number) for number in range(100_000)]
    start = time.process_time()
    found = compare({"train": questions[:98_000], "test": questions[97_000:]})
    assert found.pairs[0].exact == 1000
    assert time.process_time() - start < patience(4.0)


def write(path: Path, questions: list[str]) -> str:
    rows = [{"question": question, "answer": "1", "level": 3} for question in questions]
    if path.suffix == ".parquet":
        import pandas as pd

        pd.DataFrame(rows).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(params=[".jsonl", ".parquet", ".json"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """100 training, 100 validation and 10 test problems, of which 1, 1 and 0 are also in train."""
    train = [f"What is ${i} + 1$?" for i in range(100)]
    validation = ["what is 7 + 1", *(f"What is {i} - 1?" for i in range(99))]
    test = [f"What is {i} * 3?" for i in range(10)]
    return {
        split: write(tmp_path / f"{split}{request.param}", questions)
        for split, questions in zip(get_args(Split), (train, validation, test), strict=True)
    }


def test_files_within_the_limit(files: dict[str, Any]) -> None:
    task = TaskConfig(name="math", **files)
    found = local_overlap(task)
    assert found is not None
    assert [part.problems for part in found.parts] == [100, 100, 10]
    assert [(pair.exact, pair.normalised) for pair in found.pairs] == [(0, 1), (0, 0), (0, 0)]
    assert len(load_task(task).split("train")) + len(load_task(task).split("validation")) == 200


def test_files_above_the_limit(files: dict[str, Any]) -> None:
    task = TaskConfig(name="math", overlap_limit=0.009, **files)
    message = (
        r"task\.overlap_limit: 0\.009 allows 0\.9 %, but 1 of the validation problems \(.*validation\..*\) "
        r"are in train \(.*train\..*\) as well, 0 of them character by character: 1 %, for example "
        r"'what is 7 \+ 1'\. Remove these problems"
    )
    with pytest.raises(SpecError, match=message):
        local_overlap(task)
    loaded = load_task(task)
    loaded.split("train")
    with pytest.raises(SpecError, match=message):  # as from a hub, which no plan has read
        loaded.split("validation")


def test_three_short_examples_are_quoted(tmp_path: Path) -> None:
    source = write(tmp_path / "all.jsonl", [f"{i}: " + "long " * 100 for i in range(9)])
    with pytest.raises(SpecError) as caught:
        local_overlap(TaskConfig(name="math", train=source, validation=source))
    assert str(caught.value).count("...'") == 3
    assert len(str(caught.value)) < 700
    assert local_overlap(TaskConfig(name="math", train=source, validation=source, overlap_limit=1.0))


def test_what_is_not_a_local_file_is_not_read(tmp_path: Path) -> None:
    source = write(tmp_path / "all.jsonl", ["a"])
    found = local_overlap(TaskConfig(name="math", train="no-owner/no-data", validation=source))
    assert found is not None
    assert lines(found) == ["validation 1 problems", "from a hub, compared when loaded: train"]
    assert local_overlap(TaskConfig()) is None
    assert local_overlap(TaskConfig(name="no.such.module:Task", train=source, validation=source)) is None


def test_trouble_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text("{not json\n")
    (tmp_path / "broken.parquet").write_text("PAR1")
    for kind in ("jsonl", "parquet"):
        broken, good = str(tmp_path / f"broken.{kind}"), write(tmp_path / f"good.{kind}", ["a"])
        with pytest.raises(SpecError, match=r"task\.train: .*broken.* is not readable as"):
            local_overlap(TaskConfig(name="math", train=broken))
        with pytest.raises(
            SpecError, match=r"task\.question_field: .* no column 'q'; use one of answer, level"
        ):
            local_overlap(TaskConfig(name="math", train=good, question_field="q"))


def test_the_real_files_share_no_question(shared_data: Path) -> None:
    """What docs/tasks.md says of them."""
    questions = {}
    for name, field in REAL.items():
        rows = (shared_data / "math" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        questions[name] = [str(json.loads(row)[field]) for row in rows]
    assert sum(map(len, questions.values())) == 2336
    for one, other in combinations(questions, 2):
        found = compare({"train": questions[one], "test": questions[other]})
        assert [part.repeated for part in found.parts] == [0, 0]
        assert found.pairs[0].normalised == 0


def test_two_halves_of_a_real_file(shared_data: Path, tmp_path: Path) -> None:
    """The two halves of GSM8K's test questions share none; with ten of the first half in the second, ten."""
    source = shared_data / "math" / "gsm8k.jsonl"
    rows = source.read_text(encoding="utf-8").splitlines(keepends=True)
    train, validation = tmp_path / "train.jsonl", tmp_path / "validation.jsonl"
    train.write_text("".join(rows[:700]), encoding="utf-8")
    validation.write_text("".join(rows[690:]), encoding="utf-8")
    with pytest.raises(SpecError, match=r"10 of the validation problems .* 10 of them .*: 1\.59 %"):
        local_overlap(TaskConfig(name="math", train=str(train), validation=str(validation)))


def test_questions_of_punctuation_alone_are_their_own() -> None:
    found = compare({"train": ["???", "!!!"], "validation": ["...", "???"]})
    assert (found.pairs[0].exact, found.pairs[0].normalised) == (1, 1)


def test_fractions_of_any_size_are_one() -> None:
    assert normalised(r"$\dfrac{1}{2}$") == normalised(r"\frac{1}{2}") == normalised(r"\tfrac{1}{2}")
