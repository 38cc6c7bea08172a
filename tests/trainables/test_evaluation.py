"""When held-out answers are drawn, and when an earlier run gave them. What draws is a stand-in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trainables.loop import evaluate
from trainables.loop.state import Counters
from trainables.trial import TrialConfig

CONFIG = {"strategy": "grpo", "steps": 4, "rollouts_per_step": 32}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Runs for which answers were drawn."""
    runs: list[Any] = []

    def draw(run: Any, split: str) -> Any:
        runs.append(run)
        return np.full((2, 1), len(runs), dtype=np.float64)

    monkeypatch.setattr(evaluate, "_draw_answers", draw)
    return runs


def run_of(known: dict[str, Any], seed: int = 0, version: int = 0, **changes: Any) -> Any:
    config = TrialConfig.model_validate(CONFIG | changes)
    counters = Counters(version=version)
    return SimpleNamespace(
        lease=SimpleNamespace(base_answers=known), config=config, seed=seed, counters=counters
    )


def test_the_base_model_answers_once_for_all_configurations_of_a_seed(drawn) -> None:
    known: dict[str, Any] = {}
    first = evaluate.answer_split(run_of(known), "validation")
    again = evaluate.answer_split(
        run_of(known, strategy="v05", learner={"lr": 1e-3}, loss={"clip_low": 0.1}), "validation"
    )
    assert np.array_equal(first, again)
    assert len(drawn) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"task": {"data_seed": 1}},
        {"task": {"validation_prompts": 32}},
        {"evaluation": {"samples": 3}},
        {"evaluation": {"temperature": 0.5}},
        {"sampling": {"max_tokens": 5}},
    ],
)
def test_what_changes_the_question_is_asked_again(drawn, other) -> None:
    known: dict[str, Any] = {}
    evaluate.answer_split(run_of(known), "validation")
    evaluate.answer_split(run_of(known, **other), "validation")
    evaluate.answer_split(run_of(known, **other), "test")
    assert len(drawn) == 3


def test_a_trained_policy_always_answers_itself(drawn) -> None:
    known: dict[str, Any] = {}
    for _ in range(2):
        evaluate.answer_split(run_of(known, version=1), "validation")
    assert len(drawn) == 2
    assert known == {}


def test_another_slot_asks_its_own_base_model(drawn) -> None:
    for _ in range(2):
        evaluate.answer_split(run_of({}), "validation")
    assert len(drawn) == 2
