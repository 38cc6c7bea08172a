"""Gathering a step's rollouts, prompt order, seeds, checkpoints, metrics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.config import LossConfig
from trainables.learner import checkpoints
from trainables.loop.buffer import RolloutBuffer, cut, one_row_each, overlong_penalty
from trainables.loop.metrics import accuracy_metrics, mismatch
from trainables.loop.prompts import PromptOrder, rollout_seed
from trainables.rollouts.engine import Completions
from trainables.strategies.batch import Requests, Verdict


def completions(lengths: list[int], version: int = 0) -> Completions:
    total = sum(lengths)
    return Completions(
        length_R=np.array(lengths, dtype=np.int32),
        token_M=np.arange(total, dtype=np.int32),
        logprob_M=np.zeros(total, dtype=np.float32),
        finished_R=np.ones(len(lengths), dtype=np.bool_),
        version=version,
    )


def add(
    buffer: RolloutBuffer, prompt_ids: list[int], correct: list[float], verdict: list[int] | None = None
) -> None:
    rows = Requests.samples(prompt_ids, 1)
    verdicts = np.array(verdict or [0] * len(prompt_ids), dtype=np.int64)
    lengths = [2] * len(prompt_ids)
    buffer.add(
        rows,
        [[7, 8, 9]] * len(prompt_ids),
        completions(lengths),
        verdicts,
        np.array(correct),
        LossConfig(),
        8,
    )


def test_rounds_of_the_same_prompt_are_one_group():
    buffer = RolloutBuffer(np.arange(10) % 3)
    add(buffer, [4, 4, 5], [1, 0, 1])
    add(buffer, [5, 4], [0, 1])
    batch = buffer.batch()
    assert batch.prompt_id_P.tolist() == [4, 5]
    assert batch.stratum_P.tolist() == [1, 2]
    assert batch.prompt_N.tolist() == [0, 0, 1, 1, 0]
    assert batch.round_N.tolist() == [0, 0, 0, 1, 1]
    assert buffer.tokens().token_S.tolist()[:5] == [7, 8, 9, 0, 1]


def test_a_failed_verification_has_no_reward_and_leaves_the_group():
    buffer = RolloutBuffer(np.zeros(3, dtype=np.int64))
    add(buffer, [0, 0], [1.0, 1.0], [int(Verdict.OK), int(Verdict.TIMEOUT)])
    batch = buffer.batch()
    assert batch.reward_N.tolist() == [1.0, 0.0]
    assert batch.valid_N.tolist() == [True, False]


def test_dropped_prompts_stay_paid_for():
    buffer = RolloutBuffer(np.zeros(3, dtype=np.int64))
    add(buffer, [0, 1], [1, 0])
    buffer.drop(np.array([True, False]))
    add(buffer, [2], [1])
    assert buffer.batch().dropped_P.tolist() == [True, False, False]
    assert buffer.rollouts == 3


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(0, 30))
def test_cut_never_exceeds_the_limit_and_keeps_the_first(counts, limit):
    requests = Requests.samples(np.arange(len(counts)), np.array(counts))
    kept = cut(requests, limit)
    assert kept.rollouts == min(limit, sum(counts))
    assert (kept.count_R > 0).all()
    assert one_row_each(kept).prompt_R.tolist() == one_row_each(requests).prompt_R.tolist()[:limit]


def test_overlong_penalty_is_linear_over_the_buffer():
    loss = LossConfig(overlong_buffer=4)
    lengths = np.array([4, 12, 13, 14, 16], dtype=np.int32)
    assert overlong_penalty(lengths, loss, 16).tolist() == pytest.approx([0, 0, 0.125, 0.25, 0.5])


def test_every_prompt_once_an_epoch_and_a_new_order_each():
    order = PromptOrder(np.zeros(10, dtype=np.int64), seed=1)
    epochs = []
    for epoch in range(2):
        seen = []
        for step in range(5):
            pool = order.pool(epoch * 5 + step, exclude=np.array([], dtype=np.int64))
            order.take(pool.prompt_C[:2])
            seen += pool.prompt_C[:2].tolist()
        assert sorted(seen) == list(range(10))
        epochs.append(seen)
    assert epochs[0] != epochs[1]


def test_pool_leaves_out_what_the_step_has_and_still_offers_all_others():
    order = PromptOrder(np.zeros(6, dtype=np.int64), seed=0)
    order.take(np.array([0, 1, 2]))
    pool = order.pool(0, exclude=np.array([3]))
    assert sorted(pool.prompt_C.tolist()) == [0, 1, 2, 4, 5]
    assert set(pool.prompt_C[:2].tolist()) == {4, 5}, "unused prompts come first"


def test_prompt_order_resumes():
    first = PromptOrder(np.zeros(9, dtype=np.int64), seed=3)
    first.take(np.array([1, 2, 5]))
    second = PromptOrder(np.zeros(9, dtype=np.int64), seed=3)
    second.load_state_dict(first.state_dict())
    none = np.array([], dtype=np.int64)
    assert second.pool(4, none).prompt_C.tolist() == first.pool(4, none).prompt_C.tolist()


def test_a_prompts_later_rollouts_get_other_seeds():
    buffer = RolloutBuffer(np.zeros(3, dtype=np.int64))
    first = buffer.index_of(Requests.samples([0, 0, 1], 1))
    second = buffer.index_of(Requests.samples([1, 0], 1))
    assert (first, second) == ([0, 1, 0], [1, 2])
    seeds = {rollout_seed(0, 0, 0, 0, index) for index in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_checkpoints_round_trip_without_pickle(tmp_path):
    state = {
        "step": 3,
        "order": {"used": np.array([True, False])},
        "deep": [{"a": np.arange(3.0)}, None, "x"],
    }
    checkpoints.save(tmp_path, 3, state, lambda folder: (folder / "model").mkdir())
    path = checkpoints.save(tmp_path, 12, state, lambda folder: (folder / "model").mkdir())
    assert checkpoints.latest(tmp_path) == path
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-12"]
    loaded = checkpoints.load_state(path)
    assert loaded["step"] == 3
    assert loaded["order"]["used"].tolist() == [True, False]
    assert loaded["deep"][0]["a"].tolist() == [0, 1, 2]


def test_a_checkpoint_that_was_not_finished_is_not_there(tmp_path):
    def die(folder):
        (folder / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(tmp_path, 5, {}, die)
    assert checkpoints.latest(tmp_path) is None
    checkpoints.save(tmp_path, 5, {}, lambda folder: None)
    assert checkpoints.latest(tmp_path) is not None


def test_mismatch_of_equal_distributions_is_zero_and_grows():
    same = np.array([-1.0, -2.0], dtype=np.float32)
    assert mismatch(same, same) == {"mismatch_kl": 0, "mismatch_max": 0, "effective_sample_size": 1}
    off = mismatch(same, same + np.array([0.5, -0.5], dtype=np.float32))
    assert off["mismatch_kl"] > 0.1
    assert off["effective_sample_size"] < 0.9


def test_accuracy_error_is_over_prompts():
    correct = np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    metrics = accuracy_metrics(correct)
    assert metrics["accuracy"] == 0.5
    assert metrics["pass_at_k"] == 0.75
    assert metrics["accuracy_stderr"] == pytest.approx(np.std([1, 0, 0.5, 0.5], ddof=1) / 2)
