"""What of a step is trained, and how a run ends its budget: the parts of `Run` that touch no lent process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from trainables.config import LossConfig
from trainables.learner.results import UpdateStats, ValueStats
from trainables.learner.tokens import TokenBatch
from trainables.learner.value_batch import ValueBatch
from trainables.loop.buffer import RolloutBuffer
from trainables.loop.state import Run
from trainables.loop.update import (
    equal_prompts,
    measure_noise,
    mini_batches,
    reference_logprobs,
    update_critic,
    update_metrics,
    update_policy,
)
from trainables.rollouts.engine import Completions
from trainables.strategies.batch import CriticNeeds, Needs, Requests, Scores
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


def step_of(run: Run, lengths: list[int] = LENGTHS) -> RolloutBuffer:
    """A step of two rollouts per prompt, one right and one wrong."""
    rollouts = len(lengths)
    prompt_R = np.arange(rollouts) // 2
    buffer = RolloutBuffer(np.zeros(rollouts // 2, np.int64))
    completions = Completions(
        length_R=np.array(lengths, np.int32),
        token_M=np.arange(sum(lengths), dtype=np.int32),
        logprob_M=np.zeros(sum(lengths), np.float32),
        finished_R=np.ones(rollouts, np.bool_),
        version=0,
    )
    requests = Requests.samples(prompt_R, 1)
    verdict_R, correct_R = np.zeros(rollouts, np.int64), 1.0 - np.arange(rollouts) % 2
    buffer.add(requests, [[5]] * rollouts, completions, verdict_R, correct_R, run.config.loss, 8)
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
    ("dropped", "parts", "sizes"),
    [(0, 4, [4, 4, 4, 4]), (8, 4, [2, 2, 2, 2]), (6, 4, [3, 3, 2, 2]), (13, 4, [1, 1, 1]), (16, 4, [])],
)
def test_mini_batches_hold_equally_many_trained_prompts(dropped: int, parts: int, sizes: list[int]) -> None:
    here = run()
    buffer = step_of(here, [3] * 32)
    batch = buffer.batch()
    weight_N = (batch.prompt_N >= dropped).astype(np.float64)
    scores = Scores(advantage_N=np.ones(32), weight_N=weight_N)
    batches = mini_batches(here, batch, buffer.tokens(), scores, np.zeros(96, np.float32), parts)
    assert [len(b.weight_N) // 2 for b in batches] == sizes
    assert [b.denominator for b in batches] == [6.0 * size for size in sizes]


def test_a_step_without_dropped_prompts_is_cut_as_its_shuffle_says() -> None:
    """Each mini-batch has its stretch of the permutation of all prompts, so old runs stay the same."""
    here = run()
    buffer = step_of(here, [3] * 32)
    advantage_N = np.repeat(np.arange(16.0), 2)
    scores = Scores(advantage_N=advantage_N, weight_N=np.ones(32))
    batches = mini_batches(here, buffer.batch(), buffer.tokens(), scores, np.zeros(96, np.float32), 5)
    shuffled_P = np.random.default_rng([here.seed, 0, 0xBA7C]).permutation(16)
    for found, prompts in zip(batches, np.array_split(shuffled_P, 5), strict=True):
        assert np.unique(found.advantage_M).tolist() == sorted(prompts.tolist())


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("weights", [[1, 1, 1, 1, 1, 1, 1, 1], [2, 0, 1, 1, 0, 2, 1, 1]])
def test_prompts_weigh_the_same_in_a_mean_over_tokens_too(weights: list[float], parts: int) -> None:
    """Under `weighting: prompt`, of which a strategy knows the rollouts' share and the loop the tokens'."""
    here = run()
    buffer = step_of(here, [30, 30, 6, 6, 1, 8, 2, 2])
    scores = Scores(np.repeat(np.arange(4.0), 2), np.array(weights, np.float64), equal_prompts=True)
    batches = mini_batches(here, buffer.batch(), buffer.tokens(), scores, np.zeros(85, np.float32), parts)
    for found in batches:
        weight_M = np.repeat(found.weight_N, found.tokens.response_length_N)
        mass_P = np.bincount(found.advantage_M.astype(int), weight_M / found.denominator, minlength=4)
        np.testing.assert_allclose(mass_P[mass_P > 0], parts / 4, rtol=1e-6)


@pytest.mark.parametrize("aggregation", ["sequence_mean", "constant_length"])
def test_prompts_that_weigh_the_same_keep_their_weights_in_a_mean_over_rollouts(aggregation: str) -> None:
    here = run(loss={"aggregation": aggregation})
    buffer = step_of(here)
    scores = Scores(np.ones(6), np.array([2.0, 0, 1, 1, 1, 1]), equal_prompts=True)
    (found,) = mini_batches(here, buffer.batch(), buffer.tokens(), scores, np.zeros(13, np.float32), 1)
    assert found.weight_N.tolist() == [2, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("spent", "rollouts"), [(0, 64), (64, 64), (128, 64), (150, 42), (159, 33), (160, 0), (180, 0), (192, 0)]
)
def test_half_a_step_or_less_at_the_end_of_the_budget_is_left_unspent(spent: int, rollouts: int) -> None:
    here = run(steps=3, rollouts_per_step=64)
    here.counters.rollouts = spent
    assert here.step_rollouts() == rollouts
    here.exhausted = True
    assert here.step_rollouts() == 0


def test_the_reference_reads_what_is_trained_once_and_mini_batches_take_their_part() -> None:
    here, asked = run(loss={"kl": {"coefficient": 0.1}}), []

    def reads(tokens: TokenBatch) -> np.ndarray:
        asked.append(tokens)
        return np.full(tokens.response_tokens, -1.0, dtype=np.float32)

    here.lease = cast(Any, SimpleNamespace(learner=SimpleNamespace(reference_logprobs=reads)))
    buffer = step_of(here)
    scores = Scores(np.ones(6), np.array([1.0, 0, 1, 1, 0, 0]))
    found_M = reference_logprobs(here, buffer.tokens(), scores)
    assert found_M is not None
    assert found_M.dtype == np.float32
    assert [tokens.response_length_N.tolist() for tokens in asked] == [[1, 2, 4]]
    trained_M = np.repeat(scores.weight_N != 0, LENGTHS)
    np.testing.assert_array_equal(np.isfinite(found_M), trained_M)
    numbered_M = np.arange(13, dtype=np.float32)
    batches = mini_batches(here, buffer.batch(), buffer.tokens(), scores, numbered_M, 2, numbered_M)
    for batch in batches:
        np.testing.assert_array_equal(batch.reference_logprob_M, batch.old_logprob_M)
        taken = batch.take(np.array([len(batch.weight_N) - 1]))
        np.testing.assert_array_equal(taken.reference_logprob_M, taken.old_logprob_M)


def test_without_a_kl_no_reference_is_asked() -> None:
    here, buffer = run(loss={"kl": {"reference": "/somewhere"}}), step_of(run())
    assert reference_logprobs(here, buffer.tokens(), Scores(np.ones(6), np.ones(6))) is None
    untrained = Scores(np.ones(6), np.zeros(6))
    assert reference_logprobs(run(loss={"kl": {"coefficient": 1}}), buffer.tokens(), untrained) is None


def test_the_kl_to_the_reference_is_a_mean_over_trained_tokens() -> None:
    updates = [
        UpdateStats(1.0, 0.0, 0.0, 0.0, tokens, kl_reference=kl) for tokens, kl in ((30, 3.0), (10, 0.2))
    ]
    held = update_metrics(updates, run(loss={"kl": {"coefficient": 1}}).config.loss)
    assert held["kl_reference"] == pytest.approx(0.08)
    assert "kl_reference" not in update_metrics(updates, run().config.loss)


class Learner:
    """Keeps what it is to train, and answers with numbers that tell the calls apart."""

    def __init__(self) -> None:
        self.trained: list[Any] = []
        self.fitted: list[ValueBatch] = []
        self.halves: tuple[Any, Any] | None = None

    def update(self, batch: Any, loss: Any) -> UpdateStats:
        assert loss == LossConfig()
        self.trained.append(batch)
        return UpdateStats(float(len(self.trained)), 0.5 * len(self.trained), 1.0, 2.0, 5)

    def update_values(self, batch: ValueBatch) -> ValueStats:
        self.fitted.append(batch)
        return ValueStats(loss=float(len(self.fitted)), gradient_norm=4.0 * len(self.fitted), clipped=0.25)

    def gradient_products(self, one: Any, two: Any, loss: Any) -> tuple[float, float, float]:
        assert loss == LossConfig()
        self.halves = (one, two)
        return 3.0, 5.0, 2.0


def run_on(lent: Learner, **settings: Any) -> Run:
    here = run(**settings)
    here.lease = cast(Any, SimpleNamespace(learner=lent))
    return here


def test_the_policy_is_updated_once_per_mini_batch() -> None:
    learner = Learner()
    here = run_on(learner, learner={"mini_batches": 2})
    buffer = step_of(here)
    scores, old_logprob_M = Scores(np.arange(6.0), np.ones(6)), np.arange(13, dtype=np.float32)
    stats = update_policy(here, buffer.batch(), buffer.tokens(), scores, old_logprob_M)
    assert [len(batch.weight_N) for batch in learner.trained] == [4, 2]
    assert update_metrics(stats, LossConfig()) == pytest.approx(
        {
            "updates": 2,
            "trained_tokens": 10,
            "gradient_norm": 1.5,
            "loss": 0.75,
            "clip_fraction": 0.2,
            "importance_capped": 0.4,
        }
    )
    assert update_metrics([], LossConfig()) == {"updates": 0, "trained_tokens": 0}


def test_each_trained_token_keeps_its_own_advantage_and_old_log_prob() -> None:
    """Advantages of tokens, where a strategy gives them, take the place of its rollouts'."""
    here = run()
    buffer = step_of(here)
    tokens = tuple(10.0 * n + np.arange(length) for n, length in enumerate(LENGTHS))
    scores = Scores(np.zeros(6), np.array([1.0, 0, 1, 2, 1, 1]), advantage_tokens=tokens)
    old_logprob_M = np.concatenate(tokens).astype(np.float32) - 100
    batches = mini_batches(here, buffer.batch(), buffer.tokens(), scores, old_logprob_M, parts=2)
    found = np.concatenate([batch.advantage_M for batch in batches])
    assert sorted(found) == sorted(np.concatenate([tokens[n] for n in (0, 2, 3, 4, 5)]))
    for batch in batches:
        np.testing.assert_array_equal(batch.old_logprob_M, batch.advantage_M - 100)
        rollout_N = batch.advantage_M[np.cumsum(batch.tokens.response_length_N) - 1] // 10
        assert batch.weight_N.tolist() == scores.weight_N[rollout_N.astype(int)].tolist()


def test_other_steps_and_other_seeds_are_shuffled_otherwise() -> None:
    here = run()
    buffer = step_of(here, [3] * 32)
    scores = Scores(np.repeat(np.arange(16.0), 2), np.ones(32))

    def first() -> list[float]:
        cut = mini_batches(here, buffer.batch(), buffer.tokens(), scores, np.zeros(96, np.float32), 4)
        return sorted(set(cut[0].advantage_M.tolist()))

    found = [first(), first()]
    here.counters.step = 1
    found.append(first())
    here.seed, here.counters.step = 4, 0
    found.append(first())
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert found[0] != found[3]


@pytest.mark.parametrize(
    ("step", "every", "measured"), [(0, 2, True), (1, 2, False), (4, 2, True), (4, 0, False)]
)
def test_gradient_noise_is_measured_every_so_many_steps(step: int, every: int, measured: bool) -> None:
    """From two halves of the step: tr Cov = (3 + 5 - 2 * 2) / 4."""
    learner = Learner()
    here = run_on(learner, learner={"gradient_noise_every": every})
    here.counters.step = step
    buffer = step_of(here, [3] * 8)
    scores, old_logprob_M = Scores(np.arange(8.0), np.ones(8)), np.zeros(24, np.float32)
    found = measure_noise(here, buffer.batch(), buffer.tokens(), scores, old_logprob_M)
    if not measured:
        assert found == {}
        return
    assert found == {"gradient_noise_trace": 1.0, "gradient_signal": 2.0, "gradient_noise": 0.5}
    assert learner.halves is not None
    assert [len(half.weight_N) for half in learner.halves] == [4, 4]
    one_prompt = Scores(np.arange(8.0), np.array([1.0, 1, 0, 0, 0, 0, 0, 0]))
    assert measure_noise(here, buffer.batch(), buffer.tokens(), one_prompt, old_logprob_M) == {}


@pytest.mark.parametrize("clip", [None, 0.2])
def test_the_critic_is_fitted_to_the_targets_of_every_prompt(clip: float | None) -> None:
    """Two mini-batches of the three prompts; a prompt without a target is left out of what is counted."""
    learner = Learner()
    here = run_on(learner)
    here.needs = Needs(values=CriticNeeds(mini_batches=2, clip=clip))
    buffer = step_of(here)
    target_N = tuple(10.0 * n + np.arange(length) for n, length in enumerate(LENGTHS))
    batch = replace(buffer.batch(), values=tuple(-target for target in target_N))
    scores = Scores(np.zeros(6), np.ones(6), value_targets=target_N)
    found = update_critic(here, batch, buffer.tokens(), scores)
    assert found == pytest.approx({"critic_loss": 1.5, "critic_gradient_norm": 6.0, "critic_clipped": 0.25})
    assert [len(part.tokens.response_length_N) for part in learner.fitted] == [4, 2]
    targets = np.concatenate([part.target_M for part in learner.fitted])
    assert sorted(targets) == sorted(np.concatenate(target_N))
    for part in learner.fitted:
        assert part.target_M.dtype == np.float32
        if clip is None:
            assert part.old_M is None
        else:
            np.testing.assert_array_equal(part.old_M, -part.target_M)
    without = replace(scores, value_targets=tuple(np.full(length, np.nan) for length in LENGTHS))
    assert update_critic(here, batch, buffer.tokens(), without) == {}
    assert update_critic(here, batch, buffer.tokens(), replace(scores, value_targets=None)) == {}
    here.needs = Needs()
    assert update_critic(here, batch, buffer.tokens(), scores) == {}
    assert len(learner.fitted) == 2


def test_prompts_of_little_weight_weigh_the_same_as_others() -> None:
    """Masses .3, 4 and 0 of six tokens: the two prompts that are trained weigh 3 tokens each."""
    prompt_N, length_N = np.array([0, 0, 1, 1, 2]), np.array([1, 1, 3, 1, 1], np.int32)
    weight_N = equal_prompts(np.array([0.1, 0.2, 1, 1, 0]), prompt_N, length_N)
    assert weight_N == pytest.approx(np.array([1, 2, 0.75, 0.75, 0]) * 7 / 6)


def test_updates_and_the_noise_of_their_gradient_read_the_reference() -> None:
    learner = Learner()
    here = run_on(learner, learner={"mini_batches": 2, "gradient_noise_every": 1})
    buffer, numbered_M = step_of(here), np.arange(13, dtype=np.float32)
    step = (here, buffer.batch(), buffer.tokens(), Scores(np.arange(6.0), np.ones(6)), numbered_M)
    update_policy(*step, numbered_M)
    measure_noise(*step, numbered_M)
    assert learner.halves is not None
    read = [*learner.trained, *learner.halves]
    assert len(read) == 4
    for batch in read:
        np.testing.assert_array_equal(batch.reference_logprob_M, batch.old_logprob_M)


def fitted_prompts(seed: int, step: int) -> list[list[float]]:
    """The targets of each of the critic's four mini-batches: every prompt's own number."""
    learner = Learner()
    here = run_on(learner)
    here.seed, here.counters.step = seed, step
    here.needs = Needs(values=CriticNeeds(mini_batches=4))
    buffer = step_of(here, [1] * 32)
    target_N = tuple(np.array([float(n // 2)]) for n in range(32))
    scores = Scores(np.zeros(32), np.ones(32), value_targets=target_N)
    update_critic(here, buffer.batch(), buffer.tokens(), scores)
    return [part.target_M.tolist() for part in learner.fitted]


def test_the_critic_is_shuffled_by_the_seed_and_the_step() -> None:
    assert [len(part) for part in fitted_prompts(3, 0)] == [8] * 4
    assert fitted_prompts(3, 0) == fitted_prompts(3, 0)
    assert fitted_prompts(3, 0) != fitted_prompts(3, 1)
    assert fitted_prompts(3, 0) != fitted_prompts(4, 0)


@pytest.mark.parametrize(("level", "count"), [("token", 12.0), ("prompt", 5.0)])
def test_a_critic_is_divided_by_the_states_that_it_is_fitted_to(level: Any, count: float) -> None:
    """Of 13 tokens one has no target: the whole first response."""
    learner = Learner()
    here = run_on(learner)
    here.needs = Needs(values=CriticNeeds(level=level))
    buffer = step_of(here)
    target_N = (np.array([np.nan]), *(np.ones(length) for length in LENGTHS[1:]))
    scores = Scores(np.zeros(6), np.ones(6), value_targets=target_N)
    update_critic(here, buffer.batch(), buffer.tokens(), scores)
    assert [part.denominator for part in learner.fitted] == [count]
