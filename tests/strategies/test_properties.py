"""What must hold for every input: hypothesis, and the refusal of bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies.engine import FakeEngine
from trainables.strategies.batch import Batch, Kind
from trainables.strategies.budget.allocation import allocate, utility
from trainables.strategies.budget.spend import spend
from trainables.strategies.config import parse_strategy
from trainables.strategies.fusion.base import Fusion
from trainables.strategies.fusion.beta import BetaCounts
from trainables.strategies.fusion.evidence import Evidence
from trainables.strategies.fusion.group_mean import GroupMean
from trainables.strategies.fusion.james_stein import JamesStein
from trainables.strategies.fusion.judged.gated import Gated
from trainables.strategies.fusion.judged.mixture import Mixture
from trainables.strategies.fusion.judged.tether import Tether
from trainables.strategies.fusion.leave_one_out import LeaveOneOut as Loo
from trainables.strategies.fusion.length_weighted import LengthWeighted
from trainables.strategies.fusion.prior_only import PriorOnly
from trainables.strategies.fusion.tested import Tested as Rule
from trainables.strategies.fusion.tested import shrink_weight, threshold
from trainables.strategies.groups import Groups
from trainables.strategies.scale import Scale
from trainables.strategies.value_estimate import ValueEstimate

LEAVING = (
    Loo(),
    Rule(leave_one_out=True),
    Rule(leave_one_out=True, per_round=True),
    Rule(leave_one_out=True, test="exact"),
    Rule(leave_one_out=True, per_round=True, test="exact"),
    BetaCounts(leave_one_out=True),
    JamesStein(),
    LengthWeighted(leave_one_out=True),
    PriorOnly(leave_one_out=True),
    Evidence(),
    Tether(),
    Mixture(Tether(), rho=0.4),
    Gated(),
    Gated(otherwise="group"),
)
ALL = (
    *LEAVING,
    GroupMean(),
    Rule(),
    Rule(alpha=0.05),
    Rule(test="exact"),
    BetaCounts(),
    LengthWeighted(),
)

levels = st.floats(1e-6, 1 - 1e-6)
unit = st.floats(0, 1)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Groups, ValueEstimate]:
    """Ragged binary groups in rounds, some rollouts unused, and a prior per prompt."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    count_P = rng.integers(1, 9, draw(st.integers(1, 8)))
    prompt_N = np.repeat(np.arange(len(count_P)), count_P)
    prompt_N = prompt_N[rng.permutation(len(prompt_N))]
    n = len(prompt_N)
    used_N = rng.random(n) < 0.9 if draw(st.booleans()) else np.ones(n, np.bool_)
    groups = Groups(
        prompt_N,
        (rng.random(n) < 0.5) * 1.0 * used_N,
        len(count_P),
        used_N,
        np.sort(rng.integers(0, 3, n)),
        rng.integers(1, 20, n),
    )
    mean_P, evidence_P = rng.random(len(count_P)), rng.choice([0.0, 0.5, 3.0], len(count_P))
    return groups, ValueEstimate(mean_P=mean_P, evidence_P=evidence_P)


def changed(groups: Groups, row: int) -> Groups:
    """The same groups with one rollout's reward flipped."""
    value_N = groups.value_N.copy()
    value_N[row] = 1.0 - value_N[row]
    return replace(groups, value_N=value_N)


@given(st.floats(-1, 1), st.integers(1, 1000), levels)
def test_w_lies_in_the_unit_interval(d: float, k: int, alpha: float) -> None:
    w = shrink_weight(np.array([d]), np.array([0.25 / k]), threshold(alpha))[0]
    assert 0.0 <= w <= 1.0


@given(st.floats(-1, 1), st.integers(1, 1000), levels, levels)
def test_w_grows_with_alpha(d: float, k: int, a: float, b: float) -> None:
    low, high = sorted((a, b))
    v = np.array([0.25 / k])
    assert (
        shrink_weight(np.array([d]), v, threshold(low))[0]
        <= shrink_weight(np.array([d]), v, threshold(high))[0]
    )


@given(st.floats(0.01, 1), levels)
def test_a_wrong_prior_loses_all_weight_in_the_long_run(d: float, alpha: float) -> None:
    v = 0.25 / np.array([1e2, 1e4, 1e6, 1e12])
    w = shrink_weight(np.full(4, d), v, threshold(alpha))
    assert (np.diff(w) >= 0).all()
    assert w[-1] > 1 - 1e-3


@given(worlds(), st.sampled_from(ALL))
@settings(max_examples=150, deadline=None)
def test_baselines_lie_in_the_range_and_w_too(world: tuple[Groups, ValueEstimate], fusion: Fusion) -> None:
    groups, estimate = world
    if isinstance(fusion, JamesStein):
        estimate = pooled(groups)
    fused = fusion.fuse(groups, estimate)
    assert np.isfinite(fused.mean_N).all()
    assert (fused.mean_N >= -1e-12).all()
    assert (fused.mean_N <= 1 + 1e-12).all()
    assert not fused.scored_N[~groups.mask_N].any()
    assert fused.w_P is not None
    assert ((fused.w_P >= 0) & (fused.w_P <= 1)).all()


def pooled(groups: Groups) -> ValueEstimate:
    """The pool prior of these groups; NaN where a prompt is alone."""
    live = groups.count_P > 0
    mean = [groups.mean_P[live & (np.arange(groups.prompts) != p)] for p in range(groups.prompts)]
    return ValueEstimate(mean_P=np.array([m.mean() if len(m) else np.nan for m in mean]))


@given(worlds(), st.sampled_from(ALL), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_permuting_rollouts_inside_a_round_permutes_baselines(
    world: tuple[Groups, ValueEstimate], fusion: Fusion, seed: int
) -> None:
    groups, estimate = world
    if isinstance(fusion, JamesStein):
        estimate = pooled(groups)
    assert groups.round_N is not None
    assert groups.used_N is not None
    assert groups.length_N is not None
    order = np.lexsort((np.random.default_rng(seed).random(len(groups.prompt_N)), groups.round_N))
    moved = replace(
        groups,
        prompt_N=groups.prompt_N[order],
        value_N=groups.value_N[order],
        used_N=groups.used_N[order],
        round_N=groups.round_N[order],
        length_N=groups.length_N[order],
    )
    a, b = fusion.fuse(groups, estimate), fusion.fuse(moved, estimate)
    np.testing.assert_allclose(a.mean_N[order], b.mean_N, atol=1e-12)
    assert np.array_equal(a.scored_N[order], b.scored_N)


@given(worlds(), st.sampled_from(LEAVING), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_leave_one_out_baselines_ignore_the_scored_reward(
    world: tuple[Groups, ValueEstimate], fusion: Fusion, pick: int
) -> None:
    groups, estimate = world
    if isinstance(fusion, JamesStein):
        estimate = pooled(groups)
    row = pick % len(groups.prompt_N)
    if not groups.mask_N[row]:
        return
    a, b = fusion.fuse(groups, estimate), fusion.fuse(changed(groups, row), estimate)
    assert a.mean_N[row] == pytest.approx(b.mean_N[row], abs=1e-12)


@given(worlds(), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_per_round_form_ignores_later_rounds(
    world: tuple[Groups, ValueEstimate], pick: int, exact: bool
) -> None:
    groups, estimate = world
    assert groups.round_N is not None
    row = pick % len(groups.prompt_N)
    earlier = (groups.round_N < groups.round_N[row]) & groups.mask_N
    fusion = Rule(leave_one_out=True, per_round=True, test="exact" if exact else "chi2")
    a, b = fusion.fuse(groups, estimate), fusion.fuse(changed(groups, row), estimate)
    np.testing.assert_allclose(a.mean_N[earlier], b.mean_N[earlier], atol=1e-12)


@given(worlds(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_prior_read_from_trajectories_is_left_out_too(
    world: tuple[Groups, ValueEstimate], per_round: bool
) -> None:
    groups, _ = world
    own_N = np.random.default_rng(0).random(len(groups.prompt_N))
    fusion = Rule(leave_one_out=True, per_round=per_round)
    row = int(np.flatnonzero(groups.mask_N)[0]) if groups.mask_N.any() else 0
    other_N = own_N.copy()
    other_N[row] = 1.0 - other_N[row]
    a = fusion.fuse(groups, ValueEstimate(mean_N=own_N))
    b = fusion.fuse(groups, ValueEstimate(mean_N=other_N))
    assert a.mean_N[row] == pytest.approx(b.mean_N[row], abs=1e-12)


@given(worlds(), st.floats(-5, 5), st.floats(0.1, 10))
@settings(max_examples=100, deadline=None)
def test_another_reward_range_is_the_same_baseline_in_other_units(
    world: tuple[Groups, ValueEstimate], low: float, width: float
) -> None:
    groups, estimate = world
    assert estimate.mean_P is not None
    scale = Scale(low, low + width)
    moved = replace(groups, value_N=np.where(groups.value_N == 1.0, scale.high, scale.low), scale=scale)
    prior = ValueEstimate(mean_P=scale.reward(estimate.mean_P))
    for fusion in (Rule(), Rule(leave_one_out=True), BetaCounts(), Rule(test="exact", alpha=0.2)):
        a, b = fusion.fuse(groups, estimate), fusion.fuse(moved, prior)
        want = np.where(a.scored_N, scale.reward(a.mean_N), 0.0)
        np.testing.assert_allclose(b.mean_N, want, atol=1e-9 * (1 + width))


@given(st.lists(st.tuples(unit, st.integers(0, 9)), min_size=1, max_size=20), st.integers(0, 100))
def test_spending_keeps_the_cap_and_prefers_the_largest_gain(
    wishes: list[tuple[float, int]], cap: int
) -> None:
    gain_P = np.array([g for g, _ in wishes])
    wish_P = np.array([w for _, w in wishes])
    got = spend(gain_P, wish_P, cap)
    assert got.sum() == min(cap, wish_P.sum())
    assert ((got >= 0) & (got <= wish_P)).all()
    denied, served = gain_P[got < wish_P], gain_P[got > 0]
    if len(denied) and len(served):
        assert denied.max() <= served.min() + 1e-15


@given(
    st.lists(unit, min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(0, 9),
    st.integers(0, 40),
)
@settings(max_examples=150, deadline=None)
def test_allocations_keep_the_cap_and_the_dynamic_programme_is_never_worse(
    rates: list[float], low: int, more: int, spare: int
) -> None:
    rate_P = np.array(rates)
    total, high = low * len(rates) + spare, low + more
    worth = {}
    for method in ("greedy", "lagrangian", "exact"):
        count_P = allocate(rate_P, total, low, high, method)
        assert count_P.sum() <= total
        assert ((count_P >= low) & (count_P <= high)).all()
        worth[method] = utility(count_P, rate_P).sum()
    assert worth["exact"] >= worth["greedy"] - 1e-9
    assert worth["exact"] >= worth["lagrangian"] - 1e-9


def test_the_dynamic_programme_finds_the_best_of_all_allocations() -> None:
    rate_P = np.array([0.02, 0.1, 0.6])
    best = max(
        utility(np.array([a, b, c]), rate_P).sum()
        for a in range(2, 13)
        for b in range(2, 13)
        for c in range(2, 13)
        if a + b + c <= 18
    )
    found = allocate(rate_P, 18, 2, 12, "exact")
    assert utility(found, rate_P).sum() == pytest.approx(best)


def test_greedy_starves_hard_prompts_because_the_utility_is_convex_there() -> None:
    rate_P = np.array([0.01, 0.01, 0.01, 0.9, 0.9, 0.9])
    greedy = utility(allocate(rate_P, 96, 2, 64, "greedy"), rate_P).sum()
    exact = utility(allocate(rate_P, 96, 2, 64, "exact"), rate_P).sum()
    assert exact > 1.1 * greedy


@pytest.mark.parametrize(("prompts", "least"), [(8, 0.99), (32, 0.99), (128, 0.999)])
def test_the_lagrangian_comes_close_to_the_oracle_and_greedy_does_not(prompts: int, least: float) -> None:
    """Predicted utility as a share of the dynamic programme's, over steps of 16 rollouts a prompt."""
    rng = np.random.default_rng(0)
    share: dict[str, list[float]] = {"greedy": [], "lagrangian": []}
    for _ in range(6):
        rate_P = rng.beta(1.2, 2.2, prompts)
        best = utility(allocate(rate_P, 16 * prompts, 2, 128, "exact"), rate_P).sum()
        for method, found in share.items():
            found.append(utility(allocate(rate_P, 16 * prompts, 2, 128, method), rate_P).sum() / best)
    assert min(share["lagrangian"]) > least
    assert np.mean(share["greedy"]) < 0.85


# ---- degenerate groups --------------------------------------------------------------------------------


def small_batch() -> Batch:
    return FakeEngine(np.full(8, 0.5), np.arange(8), total=16).step(
        parse_strategy({"preset": "rloo", "group_size": 4}).build()
    )


def test_a_shaped_reward_may_leave_the_range() -> None:
    batch = small_batch()
    scores = parse_strategy("rloo").build().score(replace(batch, reward_N=batch.correct_N - 2.0))
    assert np.isfinite(scores.advantage_N).all()


def test_degenerate_groups_are_never_blown_up_by_a_normaliser() -> None:
    """A prior that disagrees with a uniform group must not be divided by a std of 0 plus epsilon."""
    config = {
        "prior": "strata",
        "fusion": "beta",
        "normaliser": "group_std",
        "budget": {"type": "fixed", "group_size": 4},
    }
    batch = small_batch()
    ones = np.where(batch.kind_N == Kind.SAMPLE, 1.0, 0.0)
    scores = parse_strategy(config).build().score(replace(batch, correct_N=ones, reward_N=ones))
    assert 0 < np.abs(scores.advantage_N).max() <= 2.0


def test_uniform_is_equality_not_a_range_of_means() -> None:
    value = np.array([0.1, 0.1, 0.1, 1e-9, 0.0])
    groups = Groups(np.array([0, 0, 0, 1, 1]), value, 2)
    assert groups.uniform_P.tolist() == [True, False]
    assert groups.variance_P[0] == 0.0
