"""A run's rollouts as a record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.strategies.engine import FakeEngine
from trainables.loop.recorder import Recorder
from trainables.strategies.batch import Batch, Verdict
from trainables.strategies.config import parse_strategy
from trainables.value_models.records import read_prompts, read_rows, texts_of

TEXTS = [f"{i}+{i}=" for i in range(64)]


def drawn(step: int) -> Batch:
    world = FakeEngine(np.linspace(0.1, 0.9, 64), np.zeros(64, np.int64), total=32, cursor=8 * step)
    return world.step(parse_strategy({"preset": "rloo", "group_size": 4}).build(), step)


def test_every_prompt_with_a_verdict_has_a_row(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "add-0", "tiny")
    recorder.start(0, TEXTS)
    batch = drawn(0)
    failed = replace(batch, verdict_N=np.where(batch.prompt_N == 2, int(Verdict.ERROR), batch.verdict_N))
    late = replace(failed, round_N=np.where(np.arange(batch.rollouts) % 4 == 3, 1, 0))
    recorder.add(late, 0, (0.0, 1.0))
    rows = read_rows(recorder.file)
    assert [row.id for row in rows] == [str(p) for i, p in enumerate(batch.prompt_id_P) if i != 2]
    assert {row.count for row in rows} == {3}
    assert rows[0].rate == pytest.approx(batch.correct_N[batch.prompt_N == 0][:3].mean())
    assert texts_of(rows, read_prompts(tmp_path / "prompts.json")) == [TEXTS[int(row.id)] for row in rows]


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "add-0", "tiny")
    recorder.start(0, TEXTS)
    for step in range(3):
        recorder.add(drawn(step), step, (0.0, 1.0))
    whole = recorder.file.read_text()
    recorder.file.write_text(whole + '{"dataset": "add-0", "id"')
    recorder.start(2, TEXTS)
    assert {row.step for row in read_rows(recorder.file)} == {0, 1}
    recorder.add(drawn(2), 2, (0.0, 1.0))
    assert recorder.file.read_text() == whole


def test_rewards_of_another_range_are_scaled(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "add-0", "tiny")
    recorder.start(0, TEXTS)
    batch = drawn(0)
    recorder.add(replace(batch, correct_N=2 * batch.correct_N - 1), 0, (-1.0, 1.0))
    other = Recorder(tmp_path / "b", "add-0", "tiny")
    other.start(0, TEXTS)
    other.add(batch, 0, (0.0, 1.0))
    assert recorder.file.read_text() == other.file.read_text()
