"""What of a step is trained, and how a run ends its budget: the parts of `Run` that touch no lent process."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from trainables.loop.buffer import RolloutBuffer
from trainables.loop.state import Run
from trainables.loop.update import mini_batches
from trainables.rollouts.engine import Completions
from trainables.strategies.batch import Needs, Requests, Scores
from trainables.trial import TrialConfig

LENGTHS = [1, 3, 2, 4, 1, 2]
"""Response tokens of six rollouts, two of each of three prompts."""


def run(**settings: Any) -> Run:
    """A run without what is lent to it, which nothing here asks for."""
    config = TrialConfig.model_validate({"strategy": {"preset": "rloo", "group_size": 2}, **settings})
    nothing = cast(Any, None)
    return Run(
        lease=nothing,
        config=config,
        seed=3,
        output=Path(),
        problems=nothing,
        strategy=nothing,
        needs=Needs(),
        verifier=nothing,
        order=nothing,
        stratum_of_prompt=np.zeros(3, np.int64),
        recorder=nothing,
    )


def step_of(run: Run) -> RolloutBuffer:
    buffer = RolloutBuffer(run.stratum_of_prompt)
    completions = Completions(
        length_R=np.array(LENGTHS, np.int32),
        token_M=np.arange(sum(LENGTHS), dtype=np.int32),
        logprob_M=np.zeros(sum(LENGTHS), np.float32),
        finished_R=np.ones(len(LENGTHS), np.bool_),
        version=0,
    )
    requests = Requests.samples([0, 0, 1, 1, 2, 2], 1)
    verdict_R, correct_R = np.zeros(6, np.int64), np.array([1.0, 0, 1, 0, 1, 0])
    buffer.add(requests, [[5]] * 6, completions, verdict_R, correct_R, run.config.loss, 8)
    return buffer


@pytest.mark.parametrize("weights", [[1, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 2], [1, 1, 1, 1, 1, 1]])
def test_a_rollout_of_weight_zero_is_in_no_mini_batch(weights: list[float]) -> None:
    """Not in its tokens, nor in the denominator of its loss."""
    here = run()
    buffer = step_of(here)
    scores = Scores(advantage_N=np.arange(6, dtype=np.float64), weight_N=np.array(weights, np.float64))
    old_logprob_M = np.arange(sum(LENGTHS), dtype=np.float32)
    batches = mini_batches(here, buffer.batch(), buffer.tokens(), scores, old_logprob_M, parts=3)
    trained = [n for n, weight in enumerate(weights) if weight]
    lengths = sorted(LENGTHS[n] for n in trained)
    assert sorted(int(n) for b in batches for n in b.tokens.response_length_N) == lengths
    assert sorted(float(w) for b in batches for w in b.weight_N) == sorted(weights[n] for n in trained)
    assert sum(b.denominator for b in batches) == pytest.approx(sum(lengths))
    for batch in batches:
        assert np.unique(batch.advantage_M).size == len(batch.weight_N)
        assert 0 not in batch.weight_N


@pytest.mark.parametrize(
    ("spent", "rollouts"), [(0, 64), (64, 64), (128, 64), (150, 42), (159, 33), (160, 0), (180, 0), (192, 0)]
)
def test_half_a_step_or_less_at_the_end_of_the_budget_is_left_unspent(spent: int, rollouts: int) -> None:
    here = run(steps=3, rollouts_per_step=64)
    here.counters.rollouts = spent
    assert here.step_rollouts() == rollouts
    here.exhausted = True
    assert here.step_rollouts() == 0
