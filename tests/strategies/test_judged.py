"""Fusions that judge the value estimate by rewards: TETHER's fitted weight and EVPO's gate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.strategies.engine import FakeEngine, stats
from trainables.strategies.batch import Batch
from trainables.strategies.composed import Composed
from trainables.strategies.config import parse_strategy
from trainables.strategies.fusion.base import Baseline, Fusion, masked
from trainables.strategies.fusion.judged.gated import Gated
from trainables.strategies.fusion.judged.mixture import Mixture
from trainables.strategies.fusion.judged.tether import Tether
from trainables.strategies.groups import Groups
from trainables.strategies.priors.base import Prior
from trainables.strategies.value_estimate import ValueEstimate
from trimtab.errors import SpecError, StrategyError

RATE = np.random.default_rng(0).beta(1.2, 2.2, 96)


@dataclass
class Critic(Prior):
    """Values that approach the pass rate along the response, as far off at its start as `sd`."""

    sd: float = 0.1

    def predict(self, batch: Batch) -> ValueEstimate:
        rate_N = RATE[batch.prompt_id_P][batch.prompt_N]
        off_N = self.sd * np.random.default_rng(3).normal(size=512)[batch.prompt_id_P][batch.prompt_N]
        return ValueEstimate(
            tokens=tuple(
                np.clip(rate + off / np.arange(1, length + 1), 0.0, 1.0)
                for rate, off, length in zip(rate_N, off_N, batch.length_N.tolist(), strict=True)
            )
        )


def world(**settings: object) -> FakeEngine:
    return FakeEngine(RATE, np.zeros(96, np.int64), **settings)  # type: ignore[arg-type]


def built(name: object, prior: Prior | None = None) -> Composed:
    strategy = parse_strategy(name).build(prior=prior or Critic())
    assert isinstance(strategy, Composed)
    return strategy


def pairs(batch: Batch, prior: Prior) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reward, mean of the group's others, and value of every state, one rollout after another."""
    tokens = prior.predict(batch).tokens
    assert tokens is not None
    rows = []
    for n, value_T in enumerate(tokens):
        mates = (batch.prompt_N == batch.prompt_N[n]) & (np.arange(batch.rollouts) != n)
        rows += [(batch.correct_N[n], batch.correct_N[mates].mean(), value) for value in value_T]
    reward, mean, value = np.array(rows).T
    return reward, mean, value


def group(*reward: float) -> Groups:
    return Groups(np.zeros(len(reward), np.int64), np.array(reward), 1)


# ---- TETHER -------------------------------------------------------------------------------------------


def test_tether_is_the_papers_recursion_over_steps() -> None:
    """Equations 15 to 17: score with the old rho, then fit to the step's own states, then smooth."""
    strategy, engine, rho = built({"preset": "tether", "decay": 0.6}), world(shaping=0.0), 0.0
    fitted = []
    for step in range(4):
        batch = engine.step(strategy, step)
        scores = strategy.score(batch)
        reward, mean, value = pairs(batch, strategy.prior)
        assert scores.advantage_tokens is not None
        np.testing.assert_allclose(
            np.concatenate(scores.advantage_tokens), reward - (1.0 - rho) * mean - rho * value, atol=1e-12
        )
        assert scores.diagnostics["tether_rho"] == pytest.approx(rho)
        assert scores.diagnostics["w_mean"] == pytest.approx(1.0 - rho)
        strategy.observe(batch, stats(step))
        fit = np.clip(((reward - mean) * (value - mean)).sum() / ((value - mean) ** 2).sum(), 0.0, 1.0)
        rho = 0.6 * rho + 0.4 * fit
        fitted.append(fit)
    assert 0.5 < min(fitted) < 1.0


def test_the_fit_is_the_best_of_all_weights() -> None:
    strategy = built({"preset": "tether", "decay": 0.0})
    batch = world().step(strategy)
    strategy.observe(batch, stats())
    assert isinstance(strategy.fusion, Mixture)
    reward, mean, value = pairs(batch, strategy.prior)
    errors = {rho: ((reward - mean - rho * (value - mean)) ** 2).sum() for rho in np.linspace(0, 1, 1001)}
    assert strategy.fusion.rho == pytest.approx(min(errors, key=lambda rho: errors[rho]), abs=1e-3)


def test_a_window_of_three_steps_makes_one_fit_of_all_their_states() -> None:
    strategy, engine = built({"preset": "tether", "decay": 0.0, "window": 3}), world()
    top = bottom = 0.0
    for step in range(3):
        batch = engine.step(strategy, step)
        assert strategy.score(batch).diagnostics["tether_rho"] == 0.0, "no fit before the window is full"
        reward, mean, value = pairs(batch, strategy.prior)
        top += float(((reward - mean) * (value - mean)).sum())
        bottom += float(((value - mean) ** 2).sum())
        strategy.observe(batch, stats(step))
    assert isinstance(strategy.fusion, Mixture)
    assert strategy.fusion.rho == pytest.approx(top / bottom)
    assert strategy.fusion.gathered == 0


def test_a_checkpoint_inside_a_window_goes_on_as_if_there_had_been_none() -> None:
    written = {"preset": "tether", "decay": 0.5, "window": 2}
    strategy, engine = built(written), world()
    for step in range(3):
        strategy.observe(engine.step(strategy, step), stats(step))
    twin = built(written)
    twin.load_state_dict(strategy.state_dict())
    batch = engine.step(strategy, 3)
    strategy.observe(batch, stats(3))
    assert twin.state_dict()["fusion"]["gathered"] == 1, "a restored strategy shares arrays with the old one"
    twin.observe(batch, stats(3))
    assert twin.state_dict()["fusion"]["rho"] == strategy.state_dict()["fusion"]["rho"] > 0.0


def test_two_strategies_of_one_config_do_not_share_rho() -> None:
    config = parse_strategy("tether")
    first, second = config.build(prior=Critic()), config.build(prior=Critic())
    first.observe(world().step(first), stats())
    assert first.state_dict()["fusion"]["rho"] > 0.0
    assert second.state_dict()["fusion"]["rho"] == 0.0


def test_rho_finds_the_weight_of_an_exact_value_and_of_a_constant() -> None:
    """An exact value has all the weight; a value of 0 as much as the mean of three gains by shrinking."""

    @dataclass
    class Constant(Prior):
        def predict(self, batch: Batch) -> ValueEstimate:
            return ValueEstimate(mean_P=np.zeros(batch.prompts))

    @dataclass
    class Exact(Prior):
        def predict(self, batch: Batch) -> ValueEstimate:
            return ValueEstimate(mean_P=RATE[batch.prompt_id_P])

    found = {}
    for name, prior in (("constant", Constant()), ("exact", Exact())):
        written = {"prior": "global", "fusion": {"type": "tether", "decay": 0.0, "window": 40}}
        strategy, engine = built({**written, "budget": {"type": "fixed", "group_size": 4}}, prior), world()
        for step in range(40):
            strategy.observe(engine.step(strategy, step), stats(step))
        found[name] = strategy.state_dict()["fusion"]["rho"]
    assert found["exact"] == pytest.approx(1.0, abs=0.05)
    noise = (RATE * (1.0 - RATE)).mean() / 3.0
    assert found["constant"] == pytest.approx(noise / ((RATE**2).mean() + noise), abs=0.05)


def test_values_that_equal_the_groups_mean_fit_nothing_and_rho_stays() -> None:
    mixture = Mixture(Tether(decay=0.0), rho=0.3)
    groups = group(1.0, 1.0, 1.0)
    mixture.observe(groups, ValueEstimate(mean_P=np.array([1.0])))
    assert mixture.rho == 0.3
    assert mixture.gathered == 0
    mixture.observe(group(1.0), ValueEstimate(mean_P=np.array([0.2])))
    assert mixture.rho == 0.3, "a rollout alone in its group has no mean to fit against"


def test_a_group_of_one_is_not_trained_and_a_preset_of_ones_is_refused() -> None:
    groups = Groups(np.array([0, 0, 1]), np.array([1.0, 0.0, 1.0]), 2)
    fused = Mixture(Tether(), rho=0.5).fuse(groups, ValueEstimate(mean_P=np.array([0.4, 0.4])))
    assert fused.scored_N.tolist() == [True, True, False]
    np.testing.assert_allclose(fused.mean_N, [0.2, 0.7, 0.0])
    with pytest.raises(SpecError, match="group_size: 1"):
        parse_strategy({"preset": "tether", "group_size": 1})
    with pytest.raises(SpecError, match=r"budget\.group_size: 1 .*'tether'"):
        parse_strategy({"prior": "strata", "fusion": "tether", "budget": {"type": "fixed", "group_size": 1}})


def test_rollouts_that_the_prior_is_silent_about_neither_train_nor_fit() -> None:
    groups = Groups(np.zeros(3, np.int64), np.array([1.0, 0.0, 1.0]), 1)
    estimate = ValueEstimate(tokens=(np.ones(2),) * 3, silent_N=np.ones(3, np.bool_))
    mixture = Mixture(Tether(decay=0.0))
    mixture.observe(groups, estimate)
    assert mixture.rho == 0.0
    mixture.observe(groups, replace(estimate, silent_N=None))
    assert mixture.rho > 0.0


def test_values_of_whole_rollouts_are_those_of_the_others_and_stay_whole() -> None:
    """rho = 1: the baseline is the mean value of the other two. A baseline of tokens has none to speak of."""
    estimate = ValueEstimate(mean_N=np.array([0.1, 0.3, 0.8]))
    for fusion in (Mixture(Tether(), rho=1.0), Gated()):
        fused = fusion.fuse(group(1.0, 0.0, 1.0), estimate)
        assert fused.tokens is None
    mixed = Mixture(Tether(), rho=1.0).fuse(group(1.0, 0.0, 1.0), estimate)
    np.testing.assert_allclose(mixed.mean_N, [0.55, 0.45, 0.2])


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_of_less_than_a_step_is_refused_in_one_line(window: int) -> None:
    with pytest.raises(ValidationError, match="window"):
        Tether(window=window)
    for written, field in (
        ({"preset": "tether", "window": window}, "strategy.window"),
        ({"prior": "strata", "fusion": {"type": "tether", "window": window}}, "strategy.fusion.window"),
    ):
        with pytest.raises(SpecError) as caught:
            parse_strategy(written)
        assert str(caught.value) == f"{field}: {window} must be greater than or equal to 1"


@pytest.mark.parametrize("fusion", ["tether", "gated"])
def test_a_value_is_required_and_gae_is_refused(fusion: str) -> None:
    with pytest.raises(SpecError, match="prior: none"):
        parse_strategy({"fusion": fusion, "budget": {"type": "fixed", "group_size": 4}})
    with pytest.raises(SpecError, match="set prior to critic and fusion to prior_only"):
        parse_strategy({"prior": "critic", "fusion": fusion, "estimator": "gae"})
    with pytest.raises(StrategyError, match=f"fusion '{fusion}' needs one"):
        (Tether() if fusion == "tether" else Gated()).fuse(group(1.0, 0.0), None)


@pytest.mark.parametrize("name", ["tether", "evpo"])
def test_shaping_keeps_its_own_baseline_and_the_critic_learns_correctness(name: str) -> None:
    strategy = parse_strategy(name).build()
    batch = world(shaping=0.3, failure_rate=0.1).step(strategy)
    values = tuple(np.full(int(t), 0.5) for t in batch.length_N)
    shaped = replace(batch, values=values)
    bare = replace(shaped, reward_N=batch.correct_N)
    a, b = strategy.score(shaped), strategy.score(bare)
    assert a.advantage_tokens is not None
    assert b.advantage_tokens is not None
    assert a.value_targets is not None
    shaping, valid = batch.reward_N - batch.correct_N, batch.valid_N
    assert shaping.any()
    for n in np.flatnonzero(valid & (a.weight_N > 0)):
        mates = (batch.prompt_N == batch.prompt_N[n]) & valid & (np.arange(batch.rollouts) != n)
        want = shaping[n] - shaping[mates].mean() if mates.any() else None
        if want is not None:
            np.testing.assert_allclose(a.advantage_tokens[n] - b.advantage_tokens[n], want, atol=1e-12)
    for n, target_T in enumerate(a.value_targets):
        if batch.verdict_N[n]:
            assert np.isnan(target_T).all()
        else:
            np.testing.assert_allclose(target_T, batch.correct_N[n])


class Counting(Fusion):
    """A fusion of a user's package with a memory: the baseline is the number of steps observed."""

    remembers = True

    def __init__(self) -> None:
        self.steps = 0

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        return masked(np.full(len(groups.prompt_N), float(self.steps)), groups.mask_N)

    def observe(self, groups: Groups, estimate: ValueEstimate | None) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = int(state["steps"])


def test_a_fusion_of_ones_own_may_remember() -> None:
    written = {
        "prior": "none",
        "fusion": f"{__name__}:Counting",
        "budget": {"type": "fixed", "group_size": 4},
    }
    strategy, twin = parse_strategy(written).build(), parse_strategy(written).build()
    batch = world().step(strategy)
    strategy.observe(batch, stats())
    twin.load_state_dict(strategy.state_dict())
    np.testing.assert_allclose(twin.score(batch).advantage_N, batch.correct_N - 1.0)
    assert "fusion" not in parse_strategy("rloo").build().state_dict(), "as stored by earlier versions"


# ---- EVPO ---------------------------------------------------------------------------------------------


def brute(batch: Batch, prior: Prior) -> np.ndarray:
    """Explained variance of the other rollouts' states, for each rollout."""
    tokens = prior.predict(batch).tokens
    assert tokens is not None
    found = []
    for left_out in range(batch.rollouts):
        others = [n for n in range(batch.rollouts) if n != left_out]
        value = np.concatenate([tokens[n] for n in others])
        reward = np.repeat(batch.correct_N[others], [len(tokens[n]) for n in others])
        found.append(1.0 - (reward - value).var() / reward.var())
    return np.array(found)


@pytest.mark.parametrize("sd", [0.05, 0.39, 2.0])
@pytest.mark.parametrize("otherwise", ["batch", "group"])
def test_evpo_takes_the_value_only_while_it_explains_variance(sd: float, otherwise: str) -> None:
    strategy = built({"preset": "evpo", "otherwise": otherwise}, Critic(sd))
    batch = world().step(strategy)
    scores, open_N = strategy.score(batch), brute(batch, strategy.prior) > 0
    tokens = strategy.prior.predict(batch).tokens
    assert tokens is not None
    assert scores.advantage_tokens is not None
    assert (open_N.any(), open_N.all()) == {0.05: (True, True), 0.39: (True, False), 2.0: (False, False)}[sd]
    for n in range(batch.rollouts):
        mates = np.arange(batch.rollouts) != n
        if otherwise == "group":
            mates &= batch.prompt_N == batch.prompt_N[n]
        base = tokens[n] if open_N[n] else batch.correct_N[mates].mean()
        np.testing.assert_allclose(scores.advantage_tokens[n], batch.correct_N[n] - base, atol=1e-12)
    assert scores.diagnostics["gate_open"] == pytest.approx(open_N.mean())
    value, reward = np.concatenate(tokens), np.repeat(batch.correct_N, batch.length_N)
    whole = 1.0 - (reward - value).var() / reward.var()
    assert scores.diagnostics["explained_variance"] == pytest.approx(whole)


def test_the_gate_is_shut_where_rewards_do_not_vary_and_a_lone_rollout_is_not_trained() -> None:
    value = ValueEstimate(mean_P=np.array([0.3]))
    shut = Gated().fuse(group(1.0, 1.0, 1.0), value)
    np.testing.assert_array_equal(shut.mean_N, 1.0)
    assert "explained_variance" not in shut.notes
    lone = Gated().fuse(group(1.0), value)
    assert not lone.scored_N.any()
    empty = Gated().fuse(replace(group(0.0), used_N=np.zeros(1, np.bool_)), value)
    assert not empty.scored_N.any()
    assert empty.notes == {}


def test_a_constant_value_explains_nothing() -> None:
    rng = np.random.default_rng(0)
    for constant in rng.random(20):
        groups = Groups(np.arange(50), (rng.random(50) < 0.4) * 1.0, 50)
        fused = Gated().fuse(groups, ValueEstimate(mean_P=np.full(50, constant)))
        assert fused.notes["gate_open"] == 0.0


def test_evpo_may_be_without_groups_where_the_batch_is_the_mean() -> None:
    assert parse_strategy({"preset": "evpo", "group_size": 1}).fusion == Gated()
    with pytest.raises(SpecError, match=r"budget\.group_size: 1 .*'gated'"):
        parse_strategy({"preset": "evpo", "group_size": 1, "otherwise": "group"})
    with pytest.raises(SpecError, match="otherwise"):
        parse_strategy({"preset": "evpo", "otherwise": "median"})


@given(st.integers(0, 2**32 - 1), st.sampled_from(["tether", "batch", "group"]), st.booleans())
@settings(max_examples=100, deadline=None)
def test_no_state_of_a_rollout_sees_its_reward_through_the_baseline(
    seed: int, kind: str, tokens: bool
) -> None:
    """Flipping one reward leaves the baseline of all its states; values read from it may not."""
    rng = np.random.default_rng(seed)
    prompt_N = np.repeat(np.arange(4), rng.integers(1, 5, 4))
    n = len(prompt_N)
    groups = Groups(prompt_N, (rng.random(n) < 0.5) * 1.0, 4)
    if tokens:
        estimate = ValueEstimate(tokens=tuple(rng.random(int(t)) for t in rng.integers(1, 4, n)))
    else:
        estimate = ValueEstimate(mean_P=rng.random(4))
    fusion = Mixture(Tether(), rho=0.4) if kind == "tether" else Gated(otherwise=kind)  # type: ignore[arg-type]
    row = int(rng.integers(n))
    value_N = groups.value_N.copy()
    value_N[row] = 1.0 - value_N[row]
    a, b = fusion.fuse(groups, estimate), fusion.fuse(replace(groups, value_N=value_N), estimate)
    assert a.scored_N[row] == b.scored_N[row]
    assert a.mean_N[row] == pytest.approx(b.mean_N[row], abs=1e-12)
    if tokens and a.scored_N[row]:
        assert a.tokens is not None
        assert b.tokens is not None
        np.testing.assert_allclose(a.tokens[row], b.tokens[row], atol=1e-12)
