"""SPO beside its authors' recipe: D, rho, the Beta counts, the value read from them, the advantages.

The values are those of spo/spo_ray_trainer.py of verl-project/verl-recipe at commit 48ea0a7
(tests/parity/data/spo.json has the file's sha256). `python -m benchmarks.peers_spo` recomputes them. D comes
from the loop's own measurement, with a table of log-probs for a learner.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import peers, peers_spo
from trainables.learner.tokens import Float32, TokenBatch
from trainables.loop.prompts import LastResponses
from trainables.strategies.batch import Batch, Stats
from trainables.strategies.composed import Composed
from trainables.strategies.config import parse_strategy
from trainables.strategies.priors.tracker import Tracker

DATA: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "spo.json").read_text())
GIVEN: dict[str, Any] = DATA["inputs"]
CLOSE = 1e-7
"""verl adds 1e-8 to the tokens that D is a mean over; 8 pseudo-counts see that nine times larger."""
EPSILON = 1e-5
"""Whitening: the recipe adds 1e-8 to the root of the variance, we add 1e-6."""


def batch_of(
    prompt_id_P: list[int], reward_PK: np.ndarray, length_N: list[int], trained: bool = True
) -> Batch:
    prompts, each = reward_PK.shape
    zero_N = np.zeros(prompts * each, np.int64)
    return Batch(
        prompt_id_P=np.array(prompt_id_P),
        stratum_P=np.zeros(prompts, np.int64),
        prompt_N=np.repeat(np.arange(prompts), each),
        round_N=zero_N,
        kind_N=zero_N,
        trainable_N=np.full(prompts * each, trained),
        verdict_N=zero_N,
        correct_N=reward_PK.ravel().astype(float),
        reward_N=reward_PK.ravel().astype(float),
        length_N=np.array(length_N, np.int64),
        version_N=zero_N,
        dropped_P=np.zeros(prompts, np.bool_),
    )


def tokens_of(step: dict[str, Any]) -> TokenBatch:
    """A prompt is one token; the table gives a log-prob to every response token by its id."""
    length_N = np.array([len(row) for row in step["response"]], np.int32)
    token_S = np.concatenate([[p, *row] for p, row in zip(step["prompt"], step["response"], strict=True)])
    sampler_logprob_M = np.zeros(int(length_N.sum()), np.float32)
    return TokenBatch(np.ones(3, np.int32), length_N, token_S.astype(np.int32), sampler_logprob_M)


def logprobs(tokens: TokenBatch, updates: int) -> Float32:
    start_N = np.cumsum(tokens.response_length_N + 1) - tokens.response_length_N
    pairs = zip(start_N, tokens.response_length_N, strict=True)
    at_M = np.concatenate([np.arange(start, start + length) for start, length in pairs])
    return np.array(GIVEN["policy"], np.float32)[updates][tokens.token_S[at_M]]


@pytest.fixture(scope="module")
def found() -> list[dict[str, np.ndarray]]:
    """The recipe's run, made by our parts. Its offline values are our bootstrap, of the first policy."""
    strategy = parse_strategy("spo").build()
    assert isinstance(strategy, Composed)
    tracker = strategy.prior
    assert isinstance(tracker, Tracker)
    offline_PK = np.array(GIVEN["offline"])
    first = batch_of(list(range(len(offline_PK))), offline_PK, [1] * offline_PK.size, trained=False)
    strategy.observe(first, Stats(0, np.zeros(len(offline_PK))))
    responses, steps = LastResponses(), []
    for number, step in enumerate(GIVEN["steps"]):
        batch = batch_of(
            step["prompt"], np.array(step["reward"])[:, None], [len(r) for r in step["response"]]
        )
        value = tracker.predict(batch).mean_P
        assert value is not None
        done = {"value": value, "advantage": strategy.score(batch).advantage_N}
        change_P = responses.change_P(batch, tokens_of(step), lambda t, now=number + 1: logprobs(t, now))
        before_2P = tracker.counts_2M[:, step["prompt"]]
        strategy.observe(batch, Stats(number, change_P))
        after_2P = tracker.counts_2M[:, step["prompt"]]
        rho_P = (after_2P.sum(axis=0) - 1.0) / before_2P.sum(axis=0)
        steps.append({**done, "D": change_P, "rho": rho_P, "alpha": after_2P[0], "beta": after_2P[1]})
    return steps


@pytest.mark.parametrize("name", ["D", "rho", "alpha", "beta", "value", "advantage"])
def test_every_step_is_the_recipes(found: list[dict[str, np.ndarray]], name: str) -> None:
    ours = np.array([step[name] for step in found])
    theirs = np.array([step[name] for step in DATA["steps"]])
    assert np.abs(ours - theirs).max() <= (EPSILON if name == "advantage" else CLOSE)


def test_the_stored_run_forgets_little_much_and_between() -> None:
    rho = np.concatenate([step["rho"] for step in DATA["steps"]])
    change = np.concatenate([step["D"] for step in DATA["steps"]])
    assert (rho == 0.875).any()
    assert ((rho > 0.875) & (rho < 0.96)).sum() > 5
    assert ((rho == 0.96) & (change > 0)).any()
    assert (change == 0).sum() == len(GIVEN["offline"])  # the first visits


def test_the_stored_inputs_are_those_that_the_benchmark_makes() -> None:
    assert peers.moved(GIVEN, peers_spo.inputs()) == []
    assert DATA["source"]["commit"] == peers_spo.COMMIT
