"""Input outside the declared domain is refused by name; never clipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from tests.strategies.engine import FakeEngine, stats
from trainables.strategies.batch import Batch, RolloutBudget, Verdict
from trainables.strategies.budget.allocation import allocate
from trainables.strategies.budget.sequential import Sequential
from trainables.strategies.budget.spend import spend
from trainables.strategies.config import parse_strategy
from trainables.strategies.priors.base import Prior
from trainables.strategies.protocol import Strategy
from trainables.strategies.value_estimate import ValueEstimate
from trimtab.errors import SpecError, StrategyError


@dataclass
class Given(Prior):
    """Estimates whatever it is told."""

    estimate: Callable[[Batch], ValueEstimate]

    def predict(self, batch: Batch) -> ValueEstimate:
        return self.estimate(batch)


def engine() -> FakeEngine:
    return FakeEngine(np.linspace(0.1, 0.9, 40), np.zeros(40, np.int64), total=64)


def played(name: object = "v05") -> tuple[Strategy, Batch]:
    strategy = parse_strategy(name).build()
    return strategy, engine().step(strategy)


def with_value(batch: Batch, field: str, row: int, value: float) -> Batch:
    changed = getattr(batch, field).copy()
    changed[row] = value
    return replace(batch, **{field: changed})


@pytest.mark.parametrize("name", ["grpo", "v05", "dapo", "spo"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("correct_N", np.nan),
        ("correct_N", np.inf),
        ("correct_N", -0.01),
        ("correct_N", 1.01),
        ("reward_N", np.nan),
        ("reward_N", -np.inf),
    ],
)
def test_a_bad_reward_names_its_prompt_everywhere(name: str, field: str, value: float) -> None:
    strategy, batch = played(name)
    bad = with_value(batch, field, 9, value)
    prompt = int(batch.prompt_id_P[batch.prompt_N[9]])
    rollout_budget = RolloutBudget(rollouts=16, rounds=4, step=0, total=batch.rollouts + 16)
    for call in (
        lambda: strategy.decide(bad, rollout_budget),
        lambda: strategy.score(bad),
        lambda: strategy.observe(bad, stats()),
    ):
        with pytest.raises(StrategyError, match=rf"prompt {prompt}: {field.removesuffix('_N')} "):
            call()


def test_a_rollout_without_a_verdict_may_hold_anything() -> None:
    strategy, batch = played()
    failed = replace(batch, verdict_N=np.where(np.arange(batch.rollouts) == 9, Verdict.TIMEOUT, Verdict.OK))
    scores = strategy.score(with_value(with_value(failed, "correct_N", 9, np.nan), "reward_N", 9, np.nan))
    clean = strategy.score(with_value(with_value(failed, "correct_N", 9, 0.0), "reward_N", 9, 0.0))
    np.testing.assert_array_equal(scores.advantage_N, clean.advantage_N)
    assert scores.weight_N[9] == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.1])
@pytest.mark.parametrize("level", ["mean_P", "mean_N"])
def test_a_bad_prior_names_its_prompt(level: str, value: float) -> None:
    def estimate(batch: Batch) -> ValueEstimate:
        size = batch.prompts if level == "mean_P" else batch.rollouts
        mean = np.full(size, 0.5)
        mean[-1] = value
        return ValueEstimate(**{level: mean})

    config = parse_strategy({"preset": "v05", "budget": {"type": "fixed", "group_size": 4}})
    strategy = config.build(prior=Given(estimate))
    batch = engine().step(strategy)
    prompt = int(batch.prompt_id_P[batch.prompt_N[-1]])
    with pytest.raises(StrategyError, match=rf"prompt {prompt}: prior"):
        strategy.score(batch)


def test_an_empty_group_names_its_prompt() -> None:
    strategy, batch = played()
    ghost = replace(
        batch,
        prompt_id_P=np.append(batch.prompt_id_P, 777),
        stratum_P=np.append(batch.stratum_P, 0),
        dropped_P=np.append(batch.dropped_P, False),
    )
    with pytest.raises(StrategyError, match="prompt 777: its group is empty"):
        strategy.score(ghost)


def test_the_exact_test_refuses_rewards_between_the_ends() -> None:
    config = parse_strategy({"preset": "v05", "fusion": {"type": "tested", "test": "exact"}})
    strategy = config.build()
    batch = engine().step(strategy)
    prompt = int(batch.prompt_id_P[batch.prompt_N[3]])
    with pytest.raises(StrategyError, match=rf"prompt {prompt}: correct 0.5 .*set fusion.test to chi2"):
        strategy.score(with_value(batch, "correct_N", 3, 0.5))


def test_caps_that_contradict() -> None:
    with pytest.raises(SpecError, match=r"k_max: 3 .* k_min=4"):
        parse_strategy({"preset": "v05", "budget": {"type": "sequential", "k_min": 4, "k_max": 3}})
    with pytest.raises(ValueError, match=r"k_max: 3 is a cap below the group size k_min=4"):
        Sequential(k_min=4, k_max=3)
    with pytest.raises(StrategyError, match=r"budget.low: 2 rollouts of 6 prompts exceed the step's 11"):
        allocate(np.full(6, 0.5), 11, 2, 8, "greedy")
    with pytest.raises(StrategyError, match=r"budget.low: 9 exceeds high=8"):
        allocate(np.full(6, 0.5), 100, 9, 8, "exact")
    with pytest.raises(StrategyError, match="cap: -1"):
        spend(np.ones(2), np.ones(2, np.int64), -1)


def test_a_declared_range_moves_what_is_refused() -> None:
    strategy = parse_strategy({"preset": "v05", "reward_range": [-1.0, 1.0]}).build()
    batch = engine().step(strategy)
    signed = replace(batch, correct_N=2 * batch.correct_N - 1, reward_N=2 * batch.reward_N - 1)
    assert np.isfinite(strategy.score(signed).advantage_N).all()
    with pytest.raises(StrategyError, match=r"outside \[-1.0, 1.0\]"):
        strategy.score(with_value(signed, "correct_N", 0, 1.5))
