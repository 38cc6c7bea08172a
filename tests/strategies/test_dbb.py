"""DBB: discounted Beta counts as baseline, the Bernoulli std of that baseline as divisor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.strategies.engine import FakeEngine, stats
from trainables.strategies.config import parse_strategy
from trainables.strategies.fusion.discounted import Discounted
from trainables.strategies.groups import Groups
from trainables.strategies.normalisers import BernoulliStd
from trainables.strategies.scale import UNIT, Scale
from trainables.strategies.value_estimate import ValueEstimate
from trimtab.errors import SpecError, StrategyError

unit = st.floats(0, 1)
FIXED = {"type": "fixed", "group_size": 4}


def beta(a: float, b: float) -> ValueEstimate:
    """The mean and spread of Beta(a, b), for one prompt."""
    mean = a / (a + b)
    return ValueEstimate(
        mean_P=np.array([mean]), sd_P=np.sqrt(np.array([mean * (1.0 - mean) / (a + b + 1.0)]))
    )


def group(*reward: float, scale: Scale = UNIT) -> Groups:
    return Groups(np.zeros(len(reward), np.int64), np.array(reward), 1, scale=scale)


def test_counts_are_discounted_and_updated() -> None:
    """Beta(3, 1) halved is (1.5, .5); one success in two rollouts makes it (2.5, 1.5)."""
    fused = Discounted(keep=0.5).fuse(group(1.0, 0.0), beta(3.0, 1.0))
    np.testing.assert_allclose(fused.mean_N, 2.5 / 4.0)
    assert fused.w_P is not None
    np.testing.assert_allclose(fused.w_P, 2.0 / 4.0)


def test_another_reward_range_gives_the_same_baseline_in_its_units() -> None:
    scale, plain = Scale(-1.0, 1.0), beta(3.0, 1.0)
    assert plain.mean_P is not None
    assert plain.sd_P is not None
    wide = ValueEstimate(mean_P=2.0 * plain.mean_P - 1.0, sd_P=2.0 * plain.sd_P)
    fused = Discounted(keep=0.5).fuse(group(1.0, -1.0, scale=scale), wide)
    np.testing.assert_allclose(fused.mean_N, 2.0 * 2.5 / 4.0 - 1.0)
    divided = BernoulliStd(epsilon=1e-9).rollouts(np.array([0.75]), group(1.0, scale=scale), np.array([True]))
    np.testing.assert_allclose(divided, 0.75 / (2.0 * np.sqrt(0.625 * 0.375)), rtol=1e-6)


def test_bernoulli_std_divides_by_the_spread_of_the_baseline() -> None:
    """Baselines .5, .8 and 1: divisors .5, .4, and the worst case .5; the unscored row stays 0."""
    advantage_N = np.array([0.5, -0.8, 0.0, 0.3])
    scored_N = np.array([True, True, True, False])
    divided_N = BernoulliStd(epsilon=1e-9).rollouts(advantage_N, group(1.0, 0.0, 1.0, 1.0), scored_N)
    np.testing.assert_allclose(divided_N, [1.0, -2.0, 0.0, 0.0], rtol=1e-6)


def test_the_preset_keeps_a_prompts_counts_over_its_visits() -> None:
    """Visits: counts plus 1/2 first, then keep times the old ones plus the new."""
    strategy = parse_strategy({"preset": "dbb", "group_size": 4, "keep": 0.8}).build()
    world = FakeEngine(np.linspace(0.05, 0.95, 24), np.zeros(24, np.int64))  # a step visits them all
    counts: dict[int, list[float]] = {}
    for step in range(4):
        batch = world.step(strategy, step)
        scores = strategy.score(batch)
        for row, prompt in enumerate(batch.prompt_id_P.tolist()):
            mine = batch.prompt_N == row
            r = batch.correct_N[mine]
            if prompt not in counts:
                counts[prompt] = [0.5 + r.sum(), 0.5 + len(r) - r.sum()]
                continue
            a, c = (0.8 * old for old in counts[prompt])
            a, c = a + r.sum(), c + len(r) - r.sum()
            b = a / (a + c)
            expected = (r - b) / (np.sqrt(b * (1.0 - b)) + 1e-6)
            np.testing.assert_allclose(scores.advantage_N[mine], expected, rtol=1e-9)
            counts[prompt] = [a, c]
        strategy.observe(batch, stats(step))
    assert len(counts) == 24


@given(unit, st.floats(0, 0.5), st.floats(0.01, 1), st.lists(st.sampled_from([0.0, 1.0]), min_size=1))
def test_the_baseline_lies_between_prior_and_group_mean(
    mean: float, sd: float, keep: float, rewards: list[float]
) -> None:
    estimate = ValueEstimate(mean_P=np.array([mean]), sd_P=np.array([sd]))
    fused = Discounted(keep=keep).fuse(group(*rewards), estimate)
    low, high = sorted((mean, float(np.mean(rewards))))
    assert fused.scored_N.all()
    assert ((fused.mean_N >= low - 1e-12) & (fused.mean_N <= high + 1e-12)).all()
    assert fused.w_P is not None
    assert 0.0 <= fused.w_P[0] <= 1.0


@given(unit, st.sampled_from([0.0, 1.0]))
def test_bernoulli_std_keeps_the_sign_and_is_finite(baseline: float, reward: float) -> None:
    advantage_N = np.array([reward - baseline])
    divided_N = BernoulliStd().rollouts(advantage_N, group(reward), np.array([True]))
    assert np.isfinite(divided_N).all()
    assert np.sign(divided_N[0]) == np.sign(advantage_N[0])


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1])
def test_a_keep_outside_its_range_is_refused(keep: float) -> None:
    with pytest.raises(ValidationError, match="keep"):
        Discounted(keep=keep)
    with pytest.raises(SpecError, match="keep"):
        parse_strategy({"preset": "dbb", "keep": keep})


@pytest.mark.parametrize("prior", ["none", "greedy", "pool", "probe", "critic", "kernel", "batchwise"])
def test_a_prior_without_a_spread_is_refused(prior: str) -> None:
    with pytest.raises(SpecError, match="prior"):
        parse_strategy({"prior": prior, "fusion": "discounted", "budget": FIXED})
    with pytest.raises(StrategyError, match="gives no sd_P"):
        Discounted().fuse(group(1.0, 0.0), ValueEstimate(mean_P=np.array([0.5])))


def test_bernoulli_std_refuses_values_per_token() -> None:
    with pytest.raises(SpecError, match="set estimator to monte_carlo"):
        parse_strategy({"preset": "ppo", "normaliser": "bernoulli_std"})
