"""Ragged batches, micro-batches and dealing: nothing is lost, nothing is padded twice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.learner.tokens import TokenBatch, TrainBatch, deal, filler, micro_batches, ragged_index

lengths = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 12)), min_size=1, max_size=20)


def make(shapes: list[tuple[int, int]]) -> TokenBatch:
    """Token n * 100 + i at place i of rollout n, log-prob -(that of the response token) / 100."""
    prompt = np.array([p for p, _ in shapes], dtype=np.int32)
    response = np.array([r for _, r in shapes], dtype=np.int32)
    token = np.concatenate([n * 100 + np.arange(p + r) for n, (p, r) in enumerate(shapes)]).astype(np.int32)
    logprob = np.concatenate([-(n * 100 + p + np.arange(r)) / 100 for n, (p, r) in enumerate(shapes)])
    return TokenBatch(prompt, response, token, logprob.astype(np.float32))


def rollout(batch: TokenBatch, n: int) -> npt.NDArray[np.int32]:
    length = batch.prompt_length_N + batch.response_length_N
    return batch.token_S[ragged_index(length, np.array([n]))]


@given(lengths, st.randoms())
def test_take_keeps_each_rollout_whole(shapes, random):
    batch = make(shapes)
    rows = list(range(len(shapes)))
    random.shuffle(rows)
    taken = batch.take(np.array(rows))
    for place, row in enumerate(rows):
        assert rollout(taken, place).tolist() == rollout(batch, row).tolist()
        mine = ragged_index(taken.response_length_N, np.array([place]))
        theirs = ragged_index(batch.response_length_N, np.array([row]))
        assert taken.sampler_logprob_M[mine].tolist() == batch.sampler_logprob_M[theirs].tolist()


@given(lengths, st.integers(1, 5))
def test_deal_gives_every_rollout_to_one_rank(shapes, ranks):
    batch = make(shapes)
    dealt = deal(batch, ranks)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(len(shapes)))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@settings(max_examples=200)
@given(lengths, st.integers(8, 80))
def test_micro_batches_hold_every_token_once_within_the_budget(shapes, budget):
    batch = make(shapes)
    seen: list[int] = []
    for part in micro_batches(batch, budget, pad_token=-7):
        rows, width = part.token_BS.shape
        assert rows * width <= budget or rows == 1
        response = part.response_mask_BT.shape[1]
        for b, n in enumerate(part.row_B):
            kept = part.token_BS[b][part.mask_BS[b] == 1]
            assert kept.tolist() == rollout(batch, n).tolist()
            answer = part.token_BS[b, -response:][part.response_mask_BT[b]]
            assert answer.tolist() == rollout(batch, n)[batch.prompt_length_N[n] :].tolist()
        assert (part.token_BS[part.mask_BS == 0] == -7).all()
        seen += part.row_B.tolist()
    assert sorted(seen) == list(range(len(shapes)))


def test_padding_puts_prompts_left_and_responses_right():
    part = next(iter(micro_batches(make([(2, 3), (4, 1)]), 100, pad_token=-1)))
    assert part.token_BS.tolist() == [[-1, -1, 0, 1, 2, 3, 4], [100, 101, 102, 103, 104, -1, -1]]
    assert part.response_mask_BT.tolist() == [[True, True, True], [True, False, False]]


def test_filler_trains_nothing():
    part = filler(pad_token=3)
    assert not part.response_mask_BT.any()
    assert part.row_B.tolist() == [-1]
    assert part.mask_BS.all(), "an all-masked row would make attention NaN"


def test_train_batch_take_moves_everything_together():
    tokens = make([(1, 2), (1, 3)])
    flat = np.arange(5, dtype=np.float32)
    batch = TrainBatch(tokens, flat, flat * 10, np.array([0.5, 2.0], dtype=np.float32), 5.0)
    taken = batch.take(np.array([1]))
    assert taken.old_logprob_M.tolist() == [2, 3, 4]
    assert taken.advantage_M.tolist() == [20, 30, 40]
    assert taken.weight_N.tolist() == [2.0]
    assert taken.denominator == 5.0
