"""Priors that smooth rewards: KAE over a prompt's own past, BASIS over the prompts of the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.strategies.engine import FakeEngine, stats
from trainables.strategies.batch import Batch, Verdict
from trainables.strategies.composed import Composed
from trainables.strategies.config import parse_strategy
from trainables.strategies.fusion.evidence import Evidence
from trainables.strategies.groups import Groups
from trainables.strategies.priors.smoothed.batchwise import BatchwisePrior
from trainables.strategies.priors.smoothed.history import History
from trainables.strategies.priors.smoothed.kernel import KernelPrior
from trainables.strategies.priors.smoothed.sharing import BETAS, Sharing, improved, shared
from trainables.strategies.priors.smoothed.visits import Visits
from trainables.strategies.scale import UNIT, Scale
from trainables.strategies.value_estimate import ValueEstimate
from trimtab.errors import SpecError, StrategyError

RATE = np.random.default_rng(0).beta(1.2, 2.2, 24)
FIXED = {"type": "fixed", "group_size": 4}


def world(prompts: int = 24, total: int = 96, **settings: object) -> FakeEngine:
    return FakeEngine(RATE[:prompts], np.zeros(prompts, np.int64), total=total, **settings)  # type: ignore[arg-type]


def built(name: object) -> Composed:
    strategy = parse_strategy(name).build()
    assert isinstance(strategy, Composed)
    return strategy


# ---- KAE ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["triangular", "exponential"])
@pytest.mark.parametrize(("bandwidth", "size"), [(0.6, 4), (1.0, 1), (2.5, 2)])
def test_kae_is_the_papers_estimate_written_out(shape: str, bandwidth: float, size: int) -> None:
    """Weighted rewards of the prompt's past, and K(0) = 1 for the group's others; the scored one is out."""
    strategy = built({"preset": "kae", "group_size": size, "bandwidth": bandwidth, "shape": shape})
    engine = world(12, total=8 * size)  # 8 of 12 prompts a step: visits are 1 and 2 steps apart
    past: dict[int, list[tuple[int, float]]] = {}
    met = 0
    for step in range(1, 7):
        batch = engine.step(strategy, step)
        scores = strategy.score(batch)
        for n, prompt in enumerate(batch.prompt_id_P[batch.prompt_N].tolist()):
            away = np.array([(step - i) / (step * bandwidth) for i, _ in past.get(prompt, [])])
            weight = np.maximum(1.0 - away, 0.0) if shape == "triangular" else np.exp(-away)
            mates = (batch.prompt_N == batch.prompt_N[n]) & (np.arange(batch.rollouts) != n)
            rewards = np.array([r for _, r in past.get(prompt, [])] + batch.correct_N[mates].tolist())
            weight = np.append(weight, np.ones(int(mates.sum())))
            if weight.sum() == 0:
                continue
            met += 1
            want = batch.correct_N[n] - (weight * rewards).sum() / weight.sum()
            assert scores.advantage_N[n] == pytest.approx(want, abs=1e-12)
        for n, prompt in enumerate(batch.prompt_id_P[batch.prompt_N].tolist()):
            past.setdefault(prompt, []).append((step, float(batch.correct_N[n])))
        strategy.observe(batch, stats(step))
    assert met > 20 * size


def test_a_prompt_without_a_past_and_alone_takes_the_mean_of_all() -> None:
    strategy = built({"preset": "kae", "group_size": 1})
    first = world().step(strategy)
    np.testing.assert_allclose(strategy.score(first).advantage_N, first.correct_N - 0.5)
    assert strategy.score(first).weight_N.all()
    strategy.observe(first, stats())
    new = strategy.prior.predict_prompts(np.array([999]), np.zeros(1, np.int64))
    assert new is not None
    assert new.mean_P is not None
    assert new.evidence_P is not None
    assert new.fresh_P is not None
    weight = 0.5  # one step ago, in the second step
    n = weight * first.rollouts
    assert new.mean_P[0] == pytest.approx((weight * first.correct_N.sum() + 1.0) / (n + 2.0))
    assert (new.evidence_P[0], new.fresh_P[0]) == (0.0, True)


def test_visits_out_of_reach_are_forgotten_and_never_wanted_again() -> None:
    prior = KernelPrior(bandwidth=0.5).begin(UNIT)
    engine, strategy = world(), built({"preset": "rloo", "group_size": 4})
    for step in range(12):
        prior.observe(engine.step(strategy, step), stats(step))
    assert prior.visits.row_4V[1].min() == 7.0, "step 13 reaches back half of 13 steps"
    assert KernelPrior(bandwidth=0.5).weight(np.array([13.0 - 6.0]), 13)[0] == 0.0


def test_unverified_rollouts_are_no_evidence() -> None:
    prior = KernelPrior().begin(UNIT)
    batch = world().step(built({"preset": "rloo", "group_size": 4}))
    prior.observe(replace(batch, verdict_N=np.full(batch.rollouts, Verdict.ERROR)), stats())
    assert prior.visits.row_4V.shape == (4, 0)
    assert prior.visits.steps == 1


def test_another_reward_range_is_the_same_estimate_in_its_units() -> None:
    scale, batch = Scale(-1.0, 1.0), world().step(built({"preset": "rloo", "group_size": 4}))
    wide = replace(batch, correct_N=2.0 * batch.correct_N - 1.0)
    for member in (KernelPrior(), BatchwisePrior()):
        plain, moved = member.begin(UNIT), member.begin(scale)
        plain.observe(batch, stats())
        moved.observe(wide, stats())
        a, b = plain.predict(batch).mean_P, moved.predict(wide).mean_P
        assert a is not None
        np.testing.assert_allclose(b, 2.0 * a - 1.0, atol=1e-12)


def test_the_kernel_is_a_better_baseline_than_the_group_alone() -> None:
    """Error of the baseline, four rollouts each, after some visits at a fixed policy."""
    error = {}
    for name in ("kae", "rloo"):
        strategy, engine = built({"preset": name, "group_size": 4}), world()
        for step in range(12):
            batch = engine.step(strategy, step)
            strategy.observe(batch, stats(step))
        batch = engine.step(strategy, 12)
        guess_N = batch.correct_N - strategy.score(batch).advantage_N
        error[name] = ((guess_N - RATE[batch.prompt_id_P][batch.prompt_N]) ** 2).mean()
    assert error["kae"] < 0.25 * error["rloo"]


@given(
    st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=6),
    st.floats(0, 1),
    st.sampled_from([0.0, 0.3, 1.0, 50.0]),
)
def test_evidence_pools_the_prior_and_the_others(rewards: list[float], mean: float, n: float) -> None:
    groups = Groups(np.zeros(len(rewards), np.int64), np.array(rewards), 1)
    estimate = ValueEstimate(mean_P=np.array([mean]), evidence_P=np.array([n]))
    fused = Evidence().fuse(groups, estimate)
    assert fused.scored_N.all()
    for row, reward in enumerate(rewards):
        count, total = len(rewards) - 1, sum(rewards) - reward
        want = mean if n + count == 0 else (n * mean + total) / (n + count)
        assert fused.mean_N[row] == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("prior", ["none", "tracker", "pool", "critic", "batchwise"])
def test_a_prior_that_counts_no_rollouts_is_refused(prior: str) -> None:
    with pytest.raises(SpecError, match="prior: "):
        parse_strategy({"prior": prior, "fusion": "evidence", "budget": FIXED})
    with pytest.raises(StrategyError, match="gives no evidence_P"):
        Evidence().fuse(Groups(np.zeros(1, np.int64), np.ones(1), 1), ValueEstimate(mean_P=np.ones(1)))


@pytest.mark.parametrize("bandwidth", [0.0, -1.0])
def test_a_bandwidth_of_nothing_is_refused(bandwidth: float) -> None:
    with pytest.raises(ValidationError, match="bandwidth"):
        KernelPrior(bandwidth=bandwidth)
    with pytest.raises(SpecError, match=r"strategy\.bandwidth"):
        parse_strategy({"preset": "kae", "bandwidth": bandwidth})


@pytest.mark.parametrize("budget", ["weighted", {"type": "allocated", "group_size": 4, "low": 2, "high": 8}])
def test_the_kernel_speaks_before_sampling(budget: object) -> None:
    strategy = built({"prior": "kernel", "fusion": "tested", "budget": budget})
    engine = world()
    for step in range(3):
        batch = engine.step(strategy, step)
        assert np.isfinite(strategy.score(batch).advantage_N).all()
        strategy.observe(batch, stats(step))


# ---- BASIS --------------------------------------------------------------------------------------------


def blue(groups: Groups, value_P: np.ndarray, prompt: int) -> float:
    """The least-variance weights with sum_j w_j v_j = v_i, by the equations of Lagrange."""
    others = [p for p in range(groups.prompts) if p != prompt and groups.count_P[p] > 0]
    v = value_P[others]
    s2 = v * (1.0 - v) / groups.count_P[others]
    system = np.block([[np.diag(2.0 * s2), v[:, None]], [v[None, :], np.zeros((1, 1))]])
    weights = np.linalg.solve(system, np.append(np.zeros(len(v)), value_P[prompt]))[:-1]
    return float(np.clip((weights * groups.mean_P[others]).sum(), 0.0, 1.0))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_weights_are_those_of_least_variance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count_P = rng.integers(1, 4, 6)
    prompt_N = np.repeat(np.arange(6), count_P)
    groups = Groups(prompt_N, (rng.random(len(prompt_N)) < 0.5) * 1.0, 6)
    value_P = rng.uniform(0.05, 0.95, 6)
    found = shared(groups, value_P)
    np.testing.assert_allclose(found, [blue(groups, value_P, p) for p in range(6)], atol=1e-9)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_prompts_baseline_does_not_see_its_own_rewards(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prompt_N = np.repeat(np.arange(5), rng.integers(1, 4, 5))
    groups = Groups(prompt_N, (rng.random(len(prompt_N)) < 0.5) * 1.0, 5)
    value_P, mine = rng.random(5), prompt_N == 2
    flipped = replace(groups, value_N=np.where(mine, 1.0 - groups.value_N, groups.value_N))
    assert shared(groups, value_P)[2] == pytest.approx(shared(flipped, value_P)[2], abs=1e-9)


def test_equal_values_make_it_the_mean_of_the_other_prompts() -> None:
    strategy = built("basis")
    batch = world(total=24).step(strategy)
    others = (batch.correct_N.sum() - batch.correct_N) / (batch.rollouts - 1)
    np.testing.assert_allclose(strategy.score(batch).advantage_N, batch.correct_N - others, atol=1e-12)


def test_prompts_near_the_ends_and_a_prompt_alone_have_their_own_value() -> None:
    groups = Groups(np.arange(4), np.array([1.0, 0.0, 1.0, 1.0]), 4)
    found = shared(groups, np.array([0.5, 0.0, 1.0, 0.4]))
    np.testing.assert_allclose(found[1:3], [0.0, 1.0])
    np.testing.assert_allclose(found[[0, 3]], [1.0, 0.8])
    assert shared(Groups(np.zeros(1, np.int64), np.ones(1), 1), np.array([0.3]))[0] == 0.3
    unused = Groups(np.arange(2), np.zeros(2), 2, np.zeros(2, np.bool_))
    np.testing.assert_array_equal(shared(unused, np.array([0.3, 0.6])), [0.3, 0.6])


def test_improved_is_the_mean_reward_of_the_tilted_policy() -> None:
    rate_P = np.array([0.0, 0.1, 0.7, 1.0])
    np.testing.assert_array_equal(improved(rate_P, np.inf), rate_P)
    for beta in BETAS[1:]:
        heads, tails = rate_P * np.exp(1.0 / beta), 1.0 - rate_P
        np.testing.assert_allclose(improved(rate_P, beta), heads / (heads + tails))


@pytest.mark.parametrize("beta", [2.0, 1.0, 0.5])
def test_beta_is_the_one_that_fitted_the_previous_step_best(beta: float) -> None:
    """A record of the old policy, and a step of the new one: the grid finds how far it has come."""
    prior, prompts = BatchwisePrior(keep=1.0).begin(UNIT), 400
    rate, zeros = np.random.default_rng(0).uniform(0.02, 0.9, prompts), np.zeros(prompts, np.int64)
    old = FakeEngine(rate, zeros, total=16 * prompts)
    even = built({"preset": "rloo", "group_size": 16})
    for step in range(6):
        prior.observe(old.step(even, step), stats(step))
    assert prior.choice == 0, "the policy has not changed"
    batch = FakeEngine(improved(rate, beta), zeros, total=16 * prompts).step(even, 9)
    before = prior.predict(batch).mean_P
    prior.observe(batch, stats(9))
    assert BETAS[prior.choice] == beta
    assert prior.metrics(batch) == {"basis_inverse_beta": 1.0 / beta}
    assert before is not None
    assert np.isfinite(before).all()


def test_one_rollout_of_others_beats_their_plain_mean() -> None:
    """One rollout a prompt: the weighted mean tells prompts apart, REINFORCE's does not."""
    strategy, engine = built("basis"), world(total=24)
    for step in range(20):
        strategy.observe(engine.step(strategy, step), stats(step))
    batch = engine.step(strategy, 20)
    rate_N = RATE[batch.prompt_id_P][batch.prompt_N]
    guess_N = batch.correct_N - strategy.score(batch).advantage_N
    plain_N = (batch.correct_N.sum() - batch.correct_N) / (batch.rollouts - 1)
    assert ((guess_N - rate_N) ** 2).mean() < 0.5 * ((plain_N - rate_N) ** 2).mean()


@pytest.mark.parametrize("keep", [0.0, 1.1])
def test_a_keep_outside_its_range_is_refused(keep: float) -> None:
    with pytest.raises(SpecError, match=r"strategy\.keep"):
        parse_strategy({"preset": "basis", "keep": keep})


def test_old_visits_are_dropped() -> None:
    prior = BatchwisePrior(keep=0.1).begin(UNIT)
    engine, strategy = world(), built({"preset": "rloo", "group_size": 4})
    for step in range(8):
        prior.observe(engine.step(strategy, step), stats(step))
    assert len(np.unique(prior.visits.row_4V[1])) == 4


# ---- both ---------------------------------------------------------------------------------------------


def learned(member: KernelPrior | BatchwisePrior, steps: int = 3) -> tuple[History | Sharing, Batch]:
    prior, engine = member.begin(UNIT), world(total=48)
    strategy = built({"preset": "rloo", "group_size": 4})
    for step in range(steps):
        prior.observe(engine.step(strategy, step), stats(step))
    return prior, engine.step(strategy, steps)


@pytest.mark.parametrize("member", [KernelPrior(), BatchwisePrior()])
def test_state_survives_a_round_trip_and_is_not_shared(member: KernelPrior | BatchwisePrior) -> None:
    prior, batch = learned(member)
    twin = member.begin(UNIT)
    twin.load_state_dict(prior.state_dict())
    a, b = prior.predict(batch).mean_P, twin.predict(batch).mean_P
    assert a is not None
    np.testing.assert_array_equal(a, b)
    twin.observe(batch, stats())
    np.testing.assert_array_equal(prior.predict(batch).mean_P, a)


def test_visits_sum_over_their_own_prompts_only() -> None:
    visits = Visits(np.array([[7.0, 3.0, 7.0], [1.0, 1.0, 2.0], [4.0, 2.0, 1.0], [3.0, 0.0, 1.0]]), steps=2)
    count_C, sum_C = visits.sums(np.array([0.5, 1.0, 1.0]), np.array([3, 5, 7, 99, 0]))
    np.testing.assert_allclose(count_C, [2.0, 0.0, 3.0, 0.0, 0.0])
    np.testing.assert_allclose(sum_C, [0.0, 0.0, 2.5, 0.0, 0.0])
    np.testing.assert_array_equal(visits.age_V, [2.0, 2.0, 1.0])
