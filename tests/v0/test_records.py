"""The released row format: what is read, what is refused, and that nothing is skipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.value_models.records import Row, check_varied, read_prompts, read_rows, texts_of, write_rows
from trimtab.errors import RecordError

GOOD = {"dataset": "math", "id": 7, "model": "m", "step": 3, "score": -0.4}


def written(path: Path, *lines: object) -> Path:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return path


def test_released_rows_are_read(tmp_path: Path) -> None:
    (row,) = read_rows(written(tmp_path / "r.jsonl", {**GOOD, "type": "context", "pair_id": 3}))
    assert row == Row("math", "7", "m", 3, -0.4, count=10)
    assert row.key == "math_7"
    assert row.rate == pytest.approx(0.3)


@given(
    st.lists(
        st.builds(
            Row,
            st.sampled_from(["a", "b"]),
            st.integers(0, 10**6).map(str),
            st.just("m"),
            st.integers(0, 99),
            st.floats(-1, 1),
            st.integers(1, 64),
        ),
        min_size=1,
        max_size=20,
        unique_by=lambda r: (r.policy, r.id),
    )
)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> None:
    path = tmp_path_factory.mktemp("rows") / "r.jsonl"
    write_rows(path, rows)
    assert read_rows(path) == rows


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{not json", "not JSON"),
        ("[]", "not an object"),
        ("", "empty line"),
        ({k: v for k, v in GOOD.items() if k != "score"}, "has no score"),
        ({**GOOD, "score": 1.5}, "score: 1.5"),
        ({**GOOD, "score": True}, "score: True"),
        ('{"dataset": "d", "id": 1, "model": "m", "step": 1, "score": NaN}', "score: nan"),
        ({**GOOD, "score": "high"}, "score: 'high'"),
        ({**GOOD, "step": -1}, "step: -1"),
        ({**GOOD, "step": 1.5}, "step: 1.5"),
        ({**GOOD, "id": None}, "id: None"),
        ({**GOOD, "count": 0}, "count: 0"),
        ({**GOOD, "id": 1}, "line 1 already"),
    ],
)
def test_a_corrupt_row_names_file_and_line(tmp_path: Path, line: object, word: str) -> None:
    path = written(tmp_path / "r.jsonl", {**GOOD, "id": 1}, line)
    with pytest.raises(RecordError, match=r"r\.jsonl:2: ") as caught:
        read_rows(path)
    assert word in str(caught.value)


def test_no_file_and_no_rows(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot be read"):
        read_rows(tmp_path / "absent")
    with pytest.raises(RecordError, match="no rows"):
        read_rows(written(tmp_path / "r.jsonl"))


@pytest.mark.parametrize(
    ("content", "word"), [("[]", "list"), ("{", "not JSON"), ('{"a": 3}', "'a' is 3"), ('{"a": " "}', "'a'")]
)
def test_prompts_that_are_not_texts_by_key(tmp_path: Path, content: str, word: str) -> None:
    with pytest.raises(RecordError, match=word):
        read_prompts(written(tmp_path / "p.json", content))


def test_an_unknown_prompt_is_named() -> None:
    rows = [Row("math", str(i), "m", 0, 0.0) for i in range(3)]
    with pytest.raises(RecordError, match=r"2 prompt.*math_1, math_2"):
        texts_of(rows, {"math_0": "1+1="})


@pytest.mark.parametrize("score", [-1.0, 1.0])
def test_a_record_without_variation_is_refused(score: float) -> None:
    rows = [Row("math", str(i), m, 5, s) for i in range(3) for m, s in (("good", i / 3), ("flat", score))]
    with pytest.raises(RecordError, match=r"record of flat at step 5.*all 3 rows score"):
        check_varied(rows)
    check_varied([row for row in rows if row.model == "good"])


def test_the_released_sample(shared_data: Path) -> None:
    folder = shared_data / "v0"
    context, train = read_rows(folder / "context.jsonl"), read_rows(folder / "train.jsonl")
    assert (len(context), len(train)) == (3072, 192)
    assert len({row.policy for row in context}) == 6
    assert not {row.key for row in context} & {row.key for row in train}
    assert len(texts_of(context + train, read_prompts(folder / "prompts.json"))) == 3264
