"""The critic prior: values in, targets out, warm-up, levels. The critic itself is the learner's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.strategies.engine import FakeEngine, stats
from trainables.config import LossConfig
from trainables.strategies.batch import Batch
from trainables.strategies.config import parse_strategy
from trainables.strategies.warmup import Warmup
from trimtab.errors import SpecError, StrategyError

RATE = np.random.default_rng(0).beta(1.2, 2.2, 96)


def valued(strategy: Any, **changes: Any) -> Batch:
    """A step's batch with values that rise along each response, some outside the reward range."""
    batch = FakeEngine(RATE, np.zeros(96, np.int64), **changes).step(strategy)
    rate_N = RATE[batch.prompt_id_P][batch.prompt_N]
    values = tuple(np.linspace(v, 1.2, int(t)) for v, t in zip(rate_N, batch.length_N, strict=True))
    return replace(batch, values=values)


@pytest.mark.parametrize("name", ["ppo", "sppo"])
def test_it_asks_the_learner_for_a_critic_and_gives_it_targets(name: str) -> None:
    strategy = parse_strategy({"preset": name, "critic_lr": 3e-5}).build()
    needs = strategy.needs().values
    assert needs is not None
    assert (needs.level, needs.lr, needs.start) == ("prompt" if name == "sppo" else "token", 3e-5, 0.5)
    batch = valued(strategy, failure_rate=0.2)
    scores = strategy.score(batch)
    assert scores.value_targets is not None
    for target_T, reward, verdict, length in zip(
        scores.value_targets, batch.correct_N, batch.verdict_N, batch.length_N, strict=True
    ):
        assert len(target_T) == length
        if verdict:
            assert np.isnan(target_T).all()
        else:
            np.testing.assert_allclose(target_T, reward, atol=1e-12)


def test_a_prompts_value_is_a_estimate_that_any_fusion_may_use() -> None:
    strategy = parse_strategy(
        {"prior": "critic", "fusion": "tested", "budget": {"type": "sequential", "k_min": 2, "k_max": 4}}
    ).build()
    assert strategy.needs().at_decide
    first = parse_strategy({"preset": "sppo", "group_size": 4, "normaliser": "none"}).build()
    batch = valued(first)
    advantage_N = first.score(batch).advantage_N
    np.testing.assert_allclose(advantage_N, batch.reward_N - RATE[batch.prompt_id_P][batch.prompt_N])
    targets = strategy.score(batch).value_targets
    assert targets is not None
    np.testing.assert_array_equal([t[0] for t in targets], batch.correct_N)


@pytest.mark.parametrize("name", ["ppo", "sppo"])
def test_warm_up_trains_the_critic_only(name: str) -> None:
    strategy = parse_strategy({"preset": name, "warmup_updates": 2}).build()
    trained = []
    for step in range(4):
        batch = valued(strategy)
        scores = strategy.score(batch)
        assert scores.value_targets is not None
        assert all(np.isfinite(v) for v in scores.diagnostics.values())
        trained.append(bool(scores.weight_N.any()))
        twin = parse_strategy({"preset": name, "warmup_updates": 2}).build()
        twin.load_state_dict(strategy.state_dict())
        assert bool(twin.score(batch).weight_N.any()) == trained[-1]
        strategy.observe(batch, stats(step))
    assert trained == [False, False, True, True]


def test_a_critic_learns_while_another_strategy_warms_up() -> None:
    strategy = parse_strategy(
        {"preset": "ppo", "group_size": 4, "warmup": {"updates": 1, "strategy": {"preset": "rloo"}}}
    ).build()
    batch = valued(strategy)
    scores = strategy.score(batch)
    assert scores.value_targets is not None
    assert scores.advantage_tokens is None


def test_length_adaptive_lambda_reaches_the_estimator() -> None:
    strategy = parse_strategy({"preset": "ppo", "length_adaptive": 0.05, "normaliser": "none"}).build()
    batch = valued(strategy)
    scores = strategy.score(batch)
    assert scores.advantage_tokens is not None
    # Responses are shorter than 20 tokens, so lambda is 0: A_t is the one-step difference.
    row = int(batch.length_N.argmax())
    values = np.clip(batch.values[row], 0, 1)  # type: ignore[index]
    np.testing.assert_allclose(scores.advantage_tokens[row][:-1], np.diff(values), atol=1e-12)


LAM = 0.9


def punished(strategy: Any) -> Batch:
    """A step's batch in which every second response is wrong and fully punished, and the critic knows it."""
    batch = FakeEngine(RATE, np.zeros(96, np.int64)).step(strategy)
    over_N = np.arange(batch.rollouts) % 2 == 0
    correct_N = np.where(over_N, 0.0, batch.correct_N)
    values = tuple(
        np.linspace(0.1, r, int(t)) for r, t in zip(correct_N - 0.5 * over_N, batch.length_N, strict=True)
    )
    return replace(batch, correct_N=correct_N, reward_N=correct_N - 0.5 * over_N, values=values)


def test_values_reach_as_low_as_shaped_rewards_under_lambda_below_one() -> None:
    penalty = LossConfig(overlong_buffer=4).largest_penalty
    config = parse_strategy({"preset": "ppo", "lam": LAM, "normaliser": "none"})
    strategy = config.build(penalty=penalty)
    batch = punished(strategy)
    scores = strategy.score(batch)
    assert scores.advantage_tokens is not None
    assert scores.value_targets is not None
    assert batch.values is not None
    for n, value_T in enumerate(batch.values):
        # The lambda-return (Sutton and Barto 2018, eq. 12.3): mix the returns of 1, 2, ... steps.
        length, reward = len(value_T), batch.reward_N[n]
        for t in range(length):
            left = length - t
            mix = [(1 - LAM) * LAM ** (k - 1) * value_T[t + k] for k in range(1, left)]
            target = sum(mix) + LAM ** (left - 1) * reward
            assert scores.value_targets[n][t] == pytest.approx(target, abs=1e-12)
            assert scores.advantage_tokens[n][t] == pytest.approx(target - value_T[t], abs=1e-12)
    assert min(target_T.min() for target_T in scores.value_targets) == pytest.approx(-0.5)


def test_a_value_below_the_shaped_range_is_clipped_and_a_prompts_value_to_the_declared_one() -> None:
    strategy = parse_strategy({"preset": "ppo", "normaliser": "none"}).build(penalty=0.5)
    batch = punished(strategy)
    low = replace(batch, values=tuple(np.full(int(t), -3.0) for t in batch.length_N))
    scores = strategy.score(low)
    assert scores.advantage_tokens is not None
    np.testing.assert_allclose([a[-1] for a in scores.advantage_tokens], batch.reward_N + 0.5)
    assert scores.diagnostics["prior_mean"] == 0.0
    mixed = {"prior": "critic", "fusion": {"type": "beta"}, "budget": {"type": "fixed", "group_size": 2}}
    other = parse_strategy(mixed).build(penalty=0.5)
    assert other.score(low).diagnostics["prior_mean"] == 0.0


def test_overlong_shaping_that_is_off_takes_nothing_off_a_reward() -> None:
    assert LossConfig(overlong_buffer=0, overlong_penalty=0.5).largest_penalty == 0.0
    assert LossConfig(overlong_buffer=4, overlong_penalty=0.25).largest_penalty == 0.25


def test_a_run_tells_its_strategy_how_far_shaping_goes() -> None:
    """Also the one that warms up."""
    config = parse_strategy({"preset": "ppo", "warmup": {"updates": 1, "strategy": "ppo"}})
    strategy = config.build(penalty=0.5)
    assert isinstance(strategy, Warmup)
    batch = punished(strategy.main)
    assert strategy.first.score(batch).value_targets is not None
    np.testing.assert_array_equal(
        np.concatenate(strategy.first.score(batch).advantage_tokens or ()),
        np.concatenate(strategy.main.score(batch).advantage_tokens or ()),
    )


def test_bad_input() -> None:
    with pytest.raises(SpecError, match=r"prior\.level: 'prompt' is fitted by cross-entropy.*\[-1, 1\]"):
        parse_strategy({"preset": "sppo", "reward_range": [-1, 1]})
    with pytest.raises(SpecError, match=r"prior\.level: 'prompt'.*'gae'"):
        parse_strategy({"preset": "sppo", "estimator": "gae"})
    with pytest.raises(SpecError, match=r"prior\.clip: 0\.2 .*level 'prompt'.*remove clip"):
        parse_strategy({"prior": {"type": "critic", "level": "prompt", "clip": 0.2}, "fusion": "prior_only"})
    strategy = parse_strategy("ppo").build()
    batch = FakeEngine(RATE, np.zeros(96, np.int64)).step(strategy)
    with pytest.raises(StrategyError, match="has none"):
        strategy.score(batch)
