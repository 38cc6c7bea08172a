"""HORA, CERO and SARA: budgets that spend by a prompt's own outcomes."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom

from benchmarks.strategies import CERO_RLOO, HORA_RLOO, SARA_RLOO, measure_bias
from benchmarks.strategies_sim import coin, play
from tests.strategies.engine import FakeEngine, stats
from trainables.strategies.batch import Batch, RolloutBudget
from trainables.strategies.budget.adaptive.duals import MOST, START, Duals, worth
from trainables.strategies.budget.adaptive.hits import allocate_hits, hit_gains, hit_utility
from trainables.strategies.budget.adaptive.sprt import log_ratio, thresholds
from trainables.strategies.composed import Composed
from trainables.strategies.config import parse_strategy
from trimtab.errors import SpecError, StrategyError

RATE = np.random.default_rng(0).beta(1.2, 2.2, 96)
counts = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=4)
NAMES = ("hora", "cero", "sara")


def engine(rate: np.ndarray = RATE, **options: object) -> FakeEngine:
    return FakeEngine(rate, np.zeros(len(rate), np.int64), **options)  # type: ignore[arg-type]


def make(name: str, **options: object) -> Composed:
    built = parse_strategy({"preset": name, **options}).build()
    assert isinstance(built, Composed)
    return built


def sizes(batch: Batch) -> np.ndarray:
    return np.bincount(batch.prompt_N, minlength=batch.prompts)


# ---- all three ----------------------------------------------------------------------------------------


@given(
    st.sampled_from(NAMES),
    st.integers(0, 200),
    st.integers(1, 12),
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from(["none", "greedy"]),
)
@settings(max_examples=60, deadline=None)
def test_a_step_keeps_its_budget_and_its_bounds(
    name: str, total: int, rounds: int, seed: int, failures: float, prior: str
) -> None:
    """Over three steps of the same prompts, with verifiers that fail and with greedy rollouts beside."""
    strategy = make(name, prior=prior)
    world = engine(RATE[:12], total=total, rounds=rounds, seed=seed, failure_rate=failures)
    for step in range(3):
        world.drawn = 0
        if total < parse_strategy({"preset": name, "prior": prior}).min_rollouts():
            with pytest.raises(RuntimeError, match="nothing was drawn"):
                world.step(strategy, step)
            return
        batch = world.step(strategy, step)
        assert world.drawn <= total
        drawn_P = np.bincount(batch.prompt_N[batch.kind_N == 0], minlength=batch.prompts)
        low, high = {"hora": (4, 64), "cero": (4, 32), "sara": (4, 16)}[name]
        assert drawn_P.min() >= low
        assert drawn_P.max() <= high
        assert np.isfinite(strategy.score(batch).advantage_N).all()
        strategy.observe(batch, stats(step))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"preset": "hora", "group_size": 2}, r"group_size: 2 is outside \[probes=4, high=64\]"),
        ({"preset": "hora", "high": 8}, r"group_size: 16 is outside \[probes=4, high=8\]"),
        ({"preset": "hora", "probes": 1}, r"probes: 1"),
        ({"preset": "cero", "low": 20}, r"group_size: 16 is outside \[low=20, high=32\]"),
        ({"preset": "cero", "rate": 0.0}, r"rate: 0"),
        ({"preset": "sara", "probes": 17}, r"probes: 17 exceeds group_size=16; lower probes"),
        ({"preset": "sara", "hopeless": 0.3}, r"hopeless: 0.3 is not below worth=0.3; lower hopeless"),
        ({"preset": "sara", "worth": 0.6}, r"worth: 0.6"),
        ({"preset": "sara", "alpha": 0.8}, r"alpha \+ beta: 1.1 is not below 1; lower alpha or beta"),
    ],
)
def test_what_is_refused_names_field_value_and_fix(written: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_strategy(written)


@pytest.mark.parametrize("name", NAMES)
def test_another_reward_range_gives_the_same_groups(name: str) -> None:
    found = []
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        strategy, world = make(name, reward_range=[low, high]), engine(RATE[:16])
        ask = strategy.decide

        def scaled(batch: Batch, low: float = low, high: float = high) -> Batch:
            correct_N = low + (high - low) * batch.correct_N
            return replace(batch, correct_N=correct_N, reward_N=correct_N)

        strategy.decide = lambda batch, left, ask=ask, scaled=scaled: ask(scaled(batch), left)  # type: ignore[method-assign, misc]
        for step in range(4):
            batch = world.step(strategy, step)
            strategy.observe(scaled(batch), stats(step))
        found.append((sizes(batch), batch.dropped_P, batch.prompt_id_P))
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- HORA ---------------------------------------------------------------------------------------------


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 40))
def test_hit_utility_is_the_beta_binomials(right: int, wrong: int, more: int) -> None:
    found = hit_utility(np.array([float(right)]), np.array([float(wrong)]), np.array([more]))[0]
    assert found == pytest.approx(1.0 - betabinom.pmf(0, more, 1 + right, 1 + wrong), abs=1e-12)


@given(st.floats(0, 50), st.floats(0, 50), st.integers(1, 64))
def test_hit_utility_is_concave(right: float, wrong: float, most: int) -> None:
    gain_M = hit_gains(np.array([right]), np.array([wrong]), most)[0]
    assert (gain_M > 0).all()
    assert (np.diff(gain_M) < 0).all()


@given(counts, st.lists(st.integers(0, 4), min_size=4, max_size=4), st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_the_allocation_equals_brute_force(seen: list[tuple[int, int]], room: list[int], cap: int) -> None:
    right_P, wrong_P = (np.array(column, float) for column in zip(*seen, strict=True))
    room_P = np.array(room[: len(seen)])
    best = max(
        float(hit_utility(right_P, wrong_P, np.array(count)).sum())
        for count in itertools.product(*(range(most + 1) for most in room_P))
        if sum(count) <= cap
    )
    count_P = allocate_hits(right_P, wrong_P, room_P, cap)
    assert count_P.sum() == min(cap, room_P.sum())
    assert (count_P <= room_P).all()
    assert hit_utility(right_P, wrong_P, count_P).sum() == pytest.approx(best, abs=1e-12)


def test_a_negative_cap_is_refused() -> None:
    with pytest.raises(StrategyError, match="cap: -1"):
        allocate_hits(np.ones(2), np.ones(2), np.ones(2, np.int64), -1)


def test_hora_spends_the_whole_step_in_two_rounds_and_mostly_where_nothing_was_right() -> None:
    batch = engine(total=512).step(make("hora"))
    assert batch.prompts == 32
    assert batch.rollouts == 512
    assert set(batch.round_N.tolist()) == {0, 1}
    probe = batch.round_N == 0
    assert (np.bincount(batch.prompt_N[probe]) == 4).all()
    right_P = np.bincount(batch.prompt_N[probe], batch.correct_N[probe])
    mean = [sizes(batch)[right_P == s].mean() for s in range(5) if (right_P == s).any()]
    assert mean == sorted(mean, reverse=True)
    np.testing.assert_array_equal(
        sizes(batch) - 4, allocate_hits(right_P, 4 - right_P, np.full(32, 60), 512 - 128)
    )


def test_sizing_groups_by_their_own_probes_biases_leave_one_out_by_less_than_a_percent() -> None:
    found = measure_bias(HORA_RLOO, 600_000)
    assert abs(found.scale - 0.999) < 4 * found.error
    assert found.error < 0.003


# ---- CERO ---------------------------------------------------------------------------------------------


@given(st.integers(0, 30), st.integers(0, 30))
def test_worth_is_the_posterior_mean_of_the_bernoulli_variance(right: int, wrong: int) -> None:
    rate = (np.arange(20_000) + 0.5) / 20_000
    density = rate**right * (1.0 - rate) ** wrong
    mean = (rate * (1.0 - rate) * density).sum() / density.sum()
    assert worth(np.array([right]), np.array([wrong]))[0] == pytest.approx(mean, rel=1e-4)


def test_prompts_nothing_is_known_of_get_the_mean_and_leave_the_price_alone() -> None:
    strategy = make("cero")
    batch = engine().step(strategy)
    assert (sizes(batch) == 16).all()
    strategy.observe(batch, stats())
    assert isinstance(strategy.budget, Duals)
    assert strategy.budget.price == START


def test_duals_take_one_projected_step() -> None:
    """By hand: 16 rollouts of each prompt, against the plan of its new posterior."""
    strategy = make("cero")
    batch = engine().step(strategy)
    strategy.observe(batch, stats())
    learned = strategy.budget
    assert isinstance(learned, Duals)
    eta = 0.25 * 0.25 / 32
    for prompt, (right, wrong, mu) in zip(learned.prompt_M, learned.state_3M.T, strict=True):
        mine = batch.prompt_id_P[batch.prompt_N] == prompt
        assert (right, right + wrong) == (batch.correct_N[mine].sum(), 16)
        v = (1 + right) * (1 + wrong) / (18 * 19)
        plan = min(max(16 * math.log(v / START), 0.0), 32.0)
        assert mu == pytest.approx(min(max(START - eta * (16 - plan), 0.0), v))


@given(st.integers(0, 1000), st.floats(0.05, 50.0))
@settings(max_examples=25, deadline=None)
def test_duals_stay_projected(seed: int, rate: float) -> None:
    strategy, world = make("cero", rate=rate), engine(RATE[:12], seed=seed)
    for step in range(8):
        strategy.observe(world.step(strategy, step), stats(step))
        learned = strategy.budget
        assert isinstance(learned, Duals)
        right_M, wrong_M, mu_M = learned.state_3M
        assert (mu_M >= 0.0).all()
        assert (mu_M <= worth(right_M, wrong_M)).all()
        assert 0.0 <= learned.price <= MOST


def test_undecided_prompts_get_more_than_settled_ones_and_the_budget_is_nearly_spent() -> None:
    rate = np.repeat([0.02, 0.5, 0.98], 32)[np.random.default_rng(1).permutation(96)]
    strategy, world = make("cero"), engine(rate)
    spent, drawn_PV = [], []
    for step in range(96):
        batch = world.step(strategy, step)
        spent.append(batch.rollouts)
        drawn_PV += list(zip(rate[batch.prompt_id_P], sizes(batch), strict=True))
        strategy.observe(batch, stats(step))
    later = np.array(drawn_PV[len(drawn_PV) // 2 :])
    middle = later[later[:, 0] == 0.5, 1].mean()
    assert middle > 1.5 * later[later[:, 0] != 0.5, 1].mean()
    assert np.mean(spent) > 0.75 * 128


def test_state_of_the_budget_survives_and_shares_nothing() -> None:
    strategy, world = make("cero"), engine(RATE[:24])
    for step in range(5):
        strategy.observe(world.step(strategy, step), stats(step))
    state = strategy.state_dict()
    assert set(state["budget"]) == {"prompt_M", "state_3M", "price"}
    fresh = make("cero")
    fresh.load_state_dict(state)
    pool, left = world.pool(np.random.default_rng(0)), RolloutBudget(128, 4, 5, 128)
    a, b = strategy.select(pool, left), fresh.select(pool, left)
    np.testing.assert_array_equal(a.count_R, b.count_R)
    assert len(set(a.count_R.tolist())) > 1
    fresh.observe(world.step(fresh, 5), stats(5))
    np.testing.assert_array_equal(strategy.state_dict()["budget"]["state_3M"], state["budget"]["state_3M"])


def test_a_budget_without_state_leaves_checkpoints_as_they_were() -> None:
    assert set(make("grpo").state_dict()) == {"prior"}


def test_sizing_groups_by_earlier_visits_is_unbiased() -> None:
    found = measure_bias(CERO_RLOO, 600_000)
    assert abs(found.scale - 1.0) < 4 * found.error
    assert found.error < 0.003


# ---- SARA ---------------------------------------------------------------------------------------------


@given(st.floats(0.001, 0.4), st.floats(0.001, 0.4))
def test_thresholds_are_walds(alpha: float, beta: float) -> None:
    lower, upper = thresholds(alpha, beta)
    assert math.exp(lower) == pytest.approx(beta / (1 - alpha))
    assert math.exp(upper) == pytest.approx((1 - beta) / alpha)
    assert lower < 0 < upper


@pytest.mark.parametrize(("alpha", "beta"), [(0.05, 0.3), (0.1, 0.1), (0.01, 0.05)])
def test_error_rates_of_the_test_keep_walds_bounds(alpha: float, beta: float) -> None:
    """20,000 tests run to their end, one rollout at a time; 4 standard errors are below .015."""
    lower, upper = thresholds(alpha, beta)
    rng, wrong_end = np.random.default_rng(0), []
    for rate, worse in ((0.05, 1), (0.3, -1)):
        hit_N = rng.random((20_000, 400)) < rate
        one = log_ratio(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 0.05, 0.3)
        path_N = np.where(hit_N, one[0], one[1]).cumsum(axis=1)
        out_N = (path_N <= lower) | (path_N >= upper)
        assert out_N.any(axis=1).all()
        end_N = path_N[np.arange(len(path_N)), out_N.argmax(axis=1)]
        wrong_end.append(float((np.sign(end_N) == worse).mean()))
    assert wrong_end[0] <= alpha / (1 - beta) + 0.015
    assert wrong_end[1] <= beta / (1 - alpha) + 0.015
    assert sum(wrong_end) <= alpha + beta + 0.015


def judged(right: int, drawn: int, **options: object) -> str:
    """What `sara` does with one prompt of `drawn` rollouts, `right` of them right."""
    one_P, zero_N = np.zeros(1, np.int64), np.zeros(drawn, np.int64)
    correct_N = (np.arange(drawn) < right) * 1.0
    batch = Batch(
        prompt_id_P=one_P,
        stratum_P=one_P,
        prompt_N=zero_N,
        round_N=np.arange(drawn) // 4,
        kind_N=zero_N,
        trainable_N=np.ones(drawn, np.bool_),
        verdict_N=zero_N,
        correct_N=correct_N,
        reward_N=correct_N,
        length_N=zero_N + 1,
        version_N=zero_N,
        dropped_P=one_P == 1,
    )
    left = RolloutBudget(rollouts=100, rounds=5, step=0, total=100 + drawn)
    decision = make("sara", **options).decide(batch, left)
    assert decision.drop_P is not None
    asked = 0 if decision.more is None else decision.more.rollouts
    if decision.drop_P[0]:
        return "abandoned" if asked == 0 else "both"
    if asked == 0:
        return "complete"
    return "committed" if asked == 16 - drawn else "undecided" if asked == 4 else str(asked)


@pytest.mark.parametrize(
    ("right", "drawn", "verdict"),
    [
        (0, 4, "abandoned"),
        (1, 4, "undecided"),
        (2, 4, "committed"),
        (3, 4, "undecided"),
        (4, 4, "abandoned"),
        (1, 8, "undecided"),
        (3, 8, "committed"),
        (7, 8, "undecided"),
        (1, 12, "abandoned"),
        (11, 12, "abandoned"),
        (0, 16, "complete"),
    ],
)
def test_what_four_probes_decide(right: int, drawn: int, verdict: str) -> None:
    assert judged(right, drawn) == verdict


def test_a_small_beta_abandons_nothing_after_four_probes() -> None:
    assert judged(0, 4, beta=0.2) == "undecided"


def test_freed_rollouts_go_to_fresh_prompts_whose_groups_can_be_completed() -> None:
    world = engine(np.where(np.arange(96) % 2, 0.5, 0.0), total=256, rounds=40)
    batch = world.step(make("sara"))
    assert batch.prompts > 16
    kept_P = ~batch.dropped_P
    assert (sizes(batch)[kept_P] == 16).all()
    assert batch.dropped_P[batch.prompt_id_P % 2 == 0].all()
    assert 256 - batch.rollouts < 16 + 12, "less than a group is left, and what the last test freed"


def test_abandoned_probes_are_paid_for_and_trained_only_if_asked() -> None:
    hopeless = np.zeros(96)
    for trained in (False, True):
        strategy = make("sara", train_abandoned=trained)
        batch = engine(hopeless).step(strategy)
        assert batch.rollouts > 64
        assert batch.dropped_P.all() == (not trained)
        assert strategy.score(batch).weight_N.any() == trained


def test_choosing_prompts_by_their_outcomes_biases_leave_one_out() -> None:
    """Dropped failures leave the gradient too long, and unevenly; training them leaves it a little short."""
    dropped = measure_bias(SARA_RLOO, 600_000)
    assert dropped.scale == pytest.approx(1.103, abs=0.02)
    assert dropped.high > 1.5 * dropped.low
    trained = measure_bias({**SARA_RLOO, "train_abandoned": True}, 600_000)
    assert trained.scale == pytest.approx(0.969, abs=0.01)


def test_the_simulation_draws_further_rollouts_and_fresh_prompts_in_one_round() -> None:
    rng = np.random.default_rng(0)
    rate_C = np.where(np.arange(64) % 2, 0.5, 0.0)
    batch, _ = play(make("sara"), coin(rate_C), 64, 256, rng)
    assert (sizes(batch)[~batch.dropped_P] == 16).all()
    assert batch.prompts > 16
