"""Budgets by hand: what is asked for before sampling and after a round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.strategies.made import batch_of, per_prompt
from trainables.errors import StrategyError
from trainables.strategies.batch import Batch, Decision, Kind, Pool, Requests, RolloutBudget
from trainables.strategies.budget.allocated import Allocated
from trainables.strategies.budget.allocation import allocate, gained, utility
from trainables.strategies.budget.base import Budget, Outlook, Progress
from trainables.strategies.budget.dynamic import Dynamic
from trainables.strategies.budget.fixed import Fixed
from trainables.strategies.budget.sequential import Sequential, gain
from trainables.strategies.budget.spend import spend
from trainables.strategies.budget.two_phase import TwoPhase
from trainables.strategies.budget.weighted import Weighted
from trainables.strategies.fusion.group_mean import GroupMean
from trainables.strategies.fusion.tested import PAPER_ALPHA
from trainables.strategies.fusion.tested import Tested as Rule
from trainables.strategies.groups import Groups
from trainables.strategies.scale import UNIT, Scale
from trainables.strategies.value_estimate import ValueEstimate


def outlook(
    rollouts: int, prompts: int = 50, wanted: int | None = None, total: int | None = None, **more: Any
) -> Outlook:
    """Prompts 100, 101, ... of a pool, and a step of `total` rollouts, of which `rollouts` are left."""
    left = RolloutBudget(rollouts, 9, 0, rollouts if total is None else total)
    pool = Pool(100 + np.arange(prompts), np.zeros(prompts, np.int64), np.random.default_rng(3))
    return Outlook(pool, left, wanted, **more)


def progress(batch: Batch, rollouts: int = 99, rounds: int = 9, scale: Scale = UNIT, **more: Any) -> Progress:
    return Progress(batch, Groups.of(batch, scale), RolloutBudget(rollouts, rounds, 0, 99), **more)


def asked(requests: Requests | None) -> dict[int, int]:
    assert requests is not None
    assert set(requests.kind_R.tolist()) <= {Kind.SAMPLE}
    return dict(zip(requests.prompt_R.tolist(), requests.count_R.tolist(), strict=True))


# ---- base ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ({"rollouts": 17}, 4),
        ({"rollouts": 17, "overhead": 1}, 3),
        ({"rollouts": 3}, 0),
        ({"rollouts": 4}, 1),
        ({"rollouts": 99, "prompts": 5}, 5),
        ({"rollouts": 99, "wanted": 2}, 2),
        ({"rollouts": 5, "wanted": 2}, 1),
    ],
)
def test_as_many_prompts_start_as_fit_the_rollouts_the_pool_and_the_wish(
    given: dict[str, Any], prompts: int
) -> None:
    assert outlook(**given).prompts(4) == prompts
    assert asked(Fixed(group_size=4).select(outlook(**given))) == {100 + n: 4 for n in range(prompts)}


def test_a_part_of_the_rollouts_may_be_named_and_never_exceeds_what_is_left() -> None:
    assert outlook(40).prompts(4, 21) == 5
    assert outlook(40).prompts(4, 1000) == 10


@pytest.mark.parametrize(
    ("given", "share", "prompts"),
    [
        ({"rollouts": 160}, 1 - 0.9, 4),
        ({"rollouts": 160}, 0.5, 20),
        ({"rollouts": 20, "total": 160}, 0.5, 5),
        ({"rollouts": 10}, 0.1, 1),
        ({"rollouts": 10, "overhead": 1}, 0.1, 1),
        ({"rollouts": 160, "wanted": 30}, 0.1, 30),
        ({"rollouts": 16, "wanted": 30, "total": 160}, 0.1, 4),
    ],
)
def test_a_step_opens_with_a_share_of_it_or_one_prompt_and_later_with_what_is_left(
    given: dict[str, Any], share: float, prompts: int
) -> None:
    assert asked(outlook(**given).open(4, share)) == {100 + n: 4 for n in range(prompts)}


def test_predicted_rates_are_in_the_unit_interval_and_need_a_prior_that_speaks_before() -> None:
    spoken = outlook(9, estimate=per_prompt(-1.0, 1.0, 3.0), scale=Scale(-1.0, 3.0))
    assert spoken.rate_C.tolist() == [0.0, 0.5, 1.0]
    message = r"^strategy.prior: cannot speak .* this budget needs; set prior to strata, tracker or global$"
    for silent in (None, ValueEstimate(mean_N=np.ones(1))):
        with pytest.raises(StrategyError, match=message):
            _ = outlook(9, estimate=silent).rate_C


def test_samples_are_counted_whatever_the_verifier_said_and_other_kinds_are_not() -> None:
    batch = batch_of(
        [[1.0, 0.0, 1.0], [0.0]], verdict_N=np.array([0, 1, 0, 0]), kind_N=np.array([0, 0, 1, 1])
    )
    assert progress(batch).drawn_P.tolist() == [2, 0]


class Plain(Budget):
    def select(self, outlook: Outlook) -> Requests:
        return outlook.take(1, 2)


def test_a_budget_of_ones_own_needs_select_alone() -> None:
    budget, shown = Plain(), progress(batch_of([[1.0]]))
    assert budget.decide(shown) == Decision()
    assert budget.decide(shown).done
    assert (budget.state_dict(), budget.notes(shown), budget.shortfall(shown)) == ({}, {}, 0.0)
    assert (budget.first_round(), budget.least(), budget.rounds()) == (1, 1, 1)
    assert Fixed(group_size=7).least() == Fixed(group_size=7).first_round() == 7


# ---- spending -----------------------------------------------------------------------------------------


def test_spending_serves_the_largest_gain_first_and_the_earlier_of_equal_ones() -> None:
    wish_P = np.array([2, 3, 4, 1])
    assert spend(np.array([0.1, 0.5, 0.1, 0.0]), wish_P, 6).tolist() == [2, 3, 1, 0]
    assert spend(np.array([0.1, 0.5, 0.1, 0.0]), wish_P, 0).tolist() == [0] * 4
    assert spend(np.array([0.1, 0.5, 0.1, 0.0]), wish_P, 99).tolist() == [2, 3, 4, 1]
    assert spend(np.zeros(20), np.ones(20, np.int64), 17).tolist() == [1] * 17 + [0] * 3
    with pytest.raises(StrategyError, match=r"^cap: -1 rollouts is negative; .* ends at 0$"):
        spend(np.zeros(4), wish_P, -1)


def test_utility_is_the_wrong_answers_beside_a_right_one() -> None:
    """Two rollouts at rate 1/4: one wrong of two beside a right one, 2 (3/4) (1/4)."""
    assert utility(np.array([2.0]), np.array([0.25])).tolist() == [0.375]
    np.testing.assert_allclose(utility(np.array([3]), np.array([0.5])), 3 * 0.5 * 0.75)
    assert utility(np.array([1, 5, 5]), np.array([0.5, 0.0, 1.0])).tolist() == [0.0] * 3


def test_allocation_by_hand() -> None:
    """A third rollout gains .117, .651 and .077, a fourth .099, .768 and .113."""
    rate_P = np.array([0.9, 0.3, 0.02])
    assert allocate(rate_P, 6, 2, 4, "greedy").tolist() == [2, 2, 2]
    assert allocate(rate_P, 8, 2, 4, "greedy").tolist() == [2, 4, 2]
    assert allocate(rate_P, 9, 2, 4, "exact").tolist() == [3, 4, 2]
    for method in ("greedy", "lagrangian", "exact"):
        assert allocate(rate_P, 99, 2, 4, method).sum() <= 12
        assert allocate(np.array([0.3]), 7, 1, 5, method).tolist() == [5]
        assert allocate(np.array([0.3]), 3, 3, 3, method).tolist() == [3]
        assert allocate(rate_P, 7, 2, 2, method).tolist() == [2, 2, 2]
        nobody = allocate(np.zeros(0), 7, 2, 4, method)
        assert (nobody.tolist(), nobody.dtype) == ([], np.int64)
        assert allocate(np.array([0.3, 0.3]), 5, 2, 4, method).tolist() in ([3, 2], [2, 3])


@pytest.mark.parametrize("method", ["lagrangian", "exact"])
@pytest.mark.parametrize("total", [8, 11, 14, 20, 30])
def test_allocations_are_as_good_as_the_best_or_nearly(method: str, total: int) -> None:
    rate_P = np.array([0.04, 0.15, 0.4, 0.8])
    table = utility(np.arange(2, 11)[None, :], rate_P[:, None])
    best = max(
        table[0, a] + table[1, b] + table[2, c] + table[3, d]
        for a, b, c, d in np.ndindex(9, 9, 9, 9)
        if a + b + c + d <= total - 8
    )
    found = allocate(rate_P, total, 2, 10, method)
    assert found.sum() <= total
    assert utility(found, rate_P).sum() >= best * (1 - 1e-12 if method == "exact" else 0.97)


def test_greedy_gives_each_rollout_to_the_largest_next_gain() -> None:
    rate_P, count_P = np.array([0.2, 0.35, 0.6, 0.35]), np.full(4, 2)
    for total in range(8, 25):
        assert allocate(rate_P, total, 2, 6, "greedy").tolist() == count_P.tolist(), total
        gain_P = utility(count_P + 1, rate_P) - utility(count_P, rate_P)
        count_P[np.where(count_P < 6, gain_P, -np.inf).argmax()] += 1


def test_an_allocation_that_cannot_be_is_refused() -> None:
    with pytest.raises(StrategyError, match=r"^budget.low: 5 exceeds high=4; lower low or raise high$"):
        allocate(np.array([0.5]), 9, 5, 4, "greedy")
    message = r"^budget.low: 2 rollouts of 3 prompts exceed the step's 5; raise .* or group_size$"
    with pytest.raises(StrategyError, match=message):
        allocate(np.full(3, 0.5), 5, 2, 4, "greedy")
    assert allocate(np.full(3, 0.5), 6, 2, 4, "greedy").tolist() == [2, 2, 2]


def test_gained_utility_is_predicted_by_the_prior_and_realised_by_the_answers() -> None:
    """Prompt 0: one of three wrong under 1/2; 1: none right; 2: silent; 3: no verdict. Eight drawn."""
    batch = batch_of([[1.0, 0.0, 1.0], [0.0, 0.0], [1.0, 0.0, 0.0], [0.0]], verdict_N=np.array([0] * 8 + [1]))
    found = gained(Groups.of(batch, UNIT), np.array([0.5, 0.25, np.nan, 0.5]))
    assert found["utility_predicted"] == pytest.approx((3 * 0.5 * 0.75 + 2 * 0.75 * 0.25) / 8)
    assert found["utility_realised"] == pytest.approx(1 / 8)
    assert gained(Groups.of(batch_of([[1.0]], verdict_N=np.array([1])), UNIT), np.array([0.5])) == {}
    wide = Groups(np.array([0, 0, 0]), np.array([3.0, -1.0, 3.0]), 1, scale=Scale(-1.0, 3.0))
    moved = gained(wide, np.array([1.0]))
    assert moved == pytest.approx({"utility_predicted": 0.375, "utility_realised": 1 / 3})


# ---- allocated and weighted ---------------------------------------------------------------------------


def test_allocated_spends_the_step_by_prediction() -> None:
    """Three prompts of four on average: all twelve rollouts, but for one that each prompt needs beside."""
    budget = Allocated(group_size=4, low=2, high=8)
    rate = per_prompt(*[0.9, 0.3, 0.3] * 20)
    found = budget.select(outlook(14, estimate=rate))
    want = allocate(np.array([0.9, 0.3, 0.3]), 14, 2, 8, "greedy")
    assert asked(found) == dict(zip((100, 101, 102), want.tolist(), strict=True))
    assert sum(asked(budget.select(outlook(15, estimate=rate, overhead=1))).values()) == 12
    later = asked(budget.select(outlook(14, estimate=rate, wanted=2)))
    assert list(later) == [100, 101]
    assert sum(later.values()) == 8
    assert asked(budget.select(outlook(3, estimate=rate))) == {}
    assert (budget.first_round(), budget.least()) == (2, 2)


def test_allocated_notes_its_utility() -> None:
    batch, budget = batch_of([[1.0, 0.0, 1.0]]), Allocated()
    found = budget.notes(progress(batch, prior_P=np.array([0.5])))
    assert found == pytest.approx({"utility_predicted": 0.375, "utility_realised": 1 / 3})
    assert budget.notes(progress(batch)) == {}


@pytest.mark.parametrize("bounds", [{"group_size": 5, "low": 6}, {"group_size": 9, "high": 8}])
def test_a_mean_outside_its_bounds_is_refused_and_at_them_is_not(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"group_size: {bounds['group_size']} is outside \[low=.*bounds"):
        Allocated(**bounds)
    assert Allocated(group_size=4, low=4, high=4).group_size == 4


def test_weighted_draws_undecided_prompts_more_often() -> None:
    """Weights sqrt(.25) + .1 and 0 + .1: how often the first of two is drawn first is .6 in .7."""
    budget, firsts = Weighted(floor=0.1), 0
    rng = np.random.default_rng(0)
    for _ in range(2000):
        pool = Pool(np.array([100, 101]), np.zeros(2, np.int64), rng)
        shown = Outlook(pool, RolloutBudget(1, 1, 0, 1), None, estimate=per_prompt(0.5, 1.0))
        firsts += budget.select(shown).prompt_R.tolist() == [100]
    assert firsts / 2000 == pytest.approx(6 / 7, abs=0.025)


def test_weighted_draws_without_replacement_what_fits() -> None:
    budget, rate = Weighted(group_size=2), per_prompt(*[0.5] * 50)
    found = asked(budget.select(outlook(9, estimate=rate)))
    assert list(found.values()) == [2] * 4
    assert len(asked(budget.select(outlook(8, estimate=rate)))) == 4
    assert len(asked(budget.select(outlook(9, estimate=rate, overhead=1)))) == 3
    assert len(asked(budget.select(outlook(99, estimate=rate, wanted=3)))) == 3
    assert budget.select(outlook(9, estimate=rate)).trainable_R.tolist() == [True] * 4
    assert (budget.first_round(), budget.least(), Weighted(bootstrap=8).least()) == (2, 2, 8)


def test_weighted_starts_fresh_prompts_with_untrained_rollouts() -> None:
    fresh_P = np.arange(50) % 2 == 0
    estimate = per_prompt(*[0.5] * 50, fresh_P=fresh_P)
    found = Weighted(bootstrap=8).select(outlook(60, estimate=estimate))
    fresh = found.prompt_R % 2 == 0
    assert 0 < fresh.sum() < len(fresh)
    assert found.count_R.tolist() == np.where(fresh, 8, 1).tolist()
    assert found.trainable_R.tolist() == (~fresh).tolist()
    assert set(found.kind_R.tolist()) == {Kind.SAMPLE}
    assert found.rollouts <= 60
    without = Weighted().select(outlook(60, estimate=estimate))
    assert without.trainable_R.all()
    assert set(without.count_R.tolist()) == {1}


# ---- dynamic ------------------------------------------------------------------------------------------

MIXED, RIGHT, WRONG = [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]


def test_dynamic_opens_with_its_share_and_knows_its_rounds() -> None:
    budget = Dynamic(group_size=4, initial=0.25, max_refills=3)
    assert len(asked(budget.select(outlook(160)))) == 10
    assert (budget.first_round(), budget.rounds()) == (4, 4)


def test_dynamic_drops_uniform_groups_and_refills_what_is_missing() -> None:
    budget = Dynamic(group_size=2)
    found = budget.decide(progress(batch_of([MIXED, RIGHT, WRONG, MIXED])))
    assert found.drop_P is not None
    assert found.drop_P.tolist() == [False, True, True, False]
    assert (found.new_prompts, found.more) == (2, None)
    dropped = batch_of([MIXED, MIXED], dropped_P=np.array([True, False]))
    again = budget.decide(progress(dropped))
    assert again.drop_P is not None
    assert again.drop_P.tolist() == [True, False], "what was dropped stays dropped"
    assert again.new_prompts == 1


@pytest.mark.parametrize(
    ("rollouts", "rounds", "overhead", "fresh"),
    [(99, 0, 0, 0), (99, 1, 0, 3), (5, 1, 0, 2), (5, 1, 1, 1), (0, 1, 0, 0)],
)
def test_dynamic_refills_out_of_what_is_left(rollouts: int, rounds: int, overhead: int, fresh: int) -> None:
    shown = progress(batch_of([WRONG] * 3 + [MIXED]), rollouts, rounds, overhead=overhead)
    assert Dynamic(group_size=2).decide(shown).new_prompts == fresh


def test_dynamic_aims_at_the_groups_of_the_first_round_and_stops_after_its_refills() -> None:
    """Three groups at first, one of them uniform, and a refill that is uniform too."""
    batch = batch_of([MIXED, RIGHT, MIXED, WRONG], round_N=np.array([0] * 6 + [1] * 2))
    budget = Dynamic(group_size=2, max_refills=2)
    assert budget.decide(progress(batch)).new_prompts == 1
    assert budget.shortfall(progress(batch)) == pytest.approx(1 / 3)
    assert Dynamic(group_size=2, max_refills=1).decide(progress(batch)).new_prompts == 0
    once = Dynamic(group_size=2, max_refills=1)
    assert once.decide(progress(batch_of([MIXED, RIGHT]))).new_prompts == 1
    assert budget.decide(progress(batch_of([]))).new_prompts == 0
    full = batch_of([MIXED, RIGHT, MIXED, MIXED, MIXED], round_N=np.array([0] * 4 + [1] * 6))
    assert budget.shortfall(progress(full)) == 0.0
    assert budget.decide(progress(full)).new_prompts == 0
    assert budget.shortfall(progress(batch_of([]))) == 0.0


# ---- sequential ---------------------------------------------------------------------------------------


def test_gain_is_the_fall_of_the_error() -> None:
    """D = 2: after k rollouts 2 / (2 k + 1), so 2/3 - 2/5 from the first to the second."""
    np.testing.assert_allclose(gain(np.array([1.0, 4.0]), np.array([2.0, 0.5])), [4 / 15, 1 / 6 - 1 / 7])


def test_sequential_draws_where_the_prior_is_refuted_and_its_gain_is_the_largest_first() -> None:
    """Four rollouts each: 0 of 4 under .9 and under .6 go on, 2 of 4 under 1/2 does not."""
    batch = batch_of([[0.0] * 4, [1.0, 0.0, 1.0, 0.0], [0.0] * 4])
    prior_P = np.array([0.6, 0.5, 0.9])
    budget = Sequential()
    assert asked(budget.decide(progress(batch, prior_P=prior_P)).more) == {70: 1, 72: 1}
    assert asked(budget.decide(progress(batch, 1, prior_P=prior_P)).more) == {72: 1}
    assert asked(Sequential(draw=3).decide(progress(batch, 4, prior_P=prior_P)).more) == {70: 1, 72: 3}
    assert asked(Sequential(draw=9, k_max=6).decide(progress(batch, prior_P=prior_P)).more) == {70: 2, 72: 2}
    assert budget.shortfall(progress(batch, prior_P=prior_P)) == pytest.approx(2 / 3)
    for rollouts, rounds in ((0, 9), (9, 0)):
        assert budget.decide(progress(batch, rollouts, rounds, prior_P=prior_P)).done
    assert Sequential(k_max=4).decide(progress(batch, prior_P=prior_P)).done, "the cap is reached"
    assert budget.decide(progress(batch, 1, 1, prior_P=prior_P)).more is not None
    with pytest.raises(StrategyError, match=r"^strategy.prior: none, but .* one; set strategy.prior$"):
        budget.decide(progress(batch))
    assert budget.shortfall(progress(batch_of([]), prior_P=np.zeros(0))) == 0.0


def test_sequential_counts_unverified_samples_and_settles_a_prompt_without_verdicts() -> None:
    batch = batch_of([[0.0] * 4, [0.0] * 4], verdict_N=np.array([0, 0, 0, 1] + [1] * 4))
    prior_P = np.array([0.9, 0.9])
    assert asked(Sequential(k_max=5).decide(progress(batch, prior_P=prior_P)).more) == {70: 1}
    assert Sequential(k_max=4).decide(progress(batch, prior_P=prior_P)).done


def test_sequential_refills_only_if_asked() -> None:
    batch, prior_P = batch_of([[1.0, 0.0, 1.0, 0.0]]), np.array([0.5])
    assert Sequential().decide(progress(batch, prior_P=prior_P)).done
    assert Sequential(refill=True).decide(progress(batch, 23, prior_P=prior_P)).new_prompts == 5
    beside = progress(batch, 23, prior_P=prior_P, overhead=1)
    assert Sequential(refill=True).decide(beside).new_prompts == 4


def test_sequential_stops_by_the_fusions_own_test_unless_it_has_a_level() -> None:
    fusion = Rule(alpha=0.2, test="exact")
    assert Sequential().rule(fusion) == Rule(alpha=0.2, test="exact")
    assert Sequential(alpha=0.05).rule(fusion) == Rule(alpha=0.05, test="exact")
    for other in (GroupMean(), None):
        assert Sequential().rule(other) == Rule(alpha=PAPER_ALPHA, test="chi2")
        assert Sequential(alpha=0.05).rule(other) == Rule(alpha=0.05, test="chi2")
    # One of four under .6: d^2 = .1225, v = .0625; at the level .01 the prior is not refuted.
    batch, prior_P = batch_of([[1.0, 0.0, 0.0, 0.0]]), np.array([0.6])
    assert not Sequential().decide(progress(batch, prior_P=prior_P, fusion=Rule())).done
    assert Sequential().decide(progress(batch, prior_P=prior_P, fusion=Rule(alpha=0.01))).done
    wide = batch_of([[3.0, -1.0, -1.0, -1.0]])
    assert not Sequential().decide(progress(wide, scale=Scale(-1.0, 3.0), prior_P=np.array([1.4]))).done


def test_sequential_knows_its_rounds_and_its_first_one() -> None:
    """From 4 to 16 by fives: three more rounds; refilled prompts need as many again."""
    assert Sequential(draw=5).rounds() == 4
    assert Sequential(draw=5, refill=True).rounds() == 8
    assert Sequential(k_min=3, k_max=3).rounds() == 1
    assert Sequential(k_min=3).first_round() == 3
    assert len(asked(Sequential(reserve=0.75).select(outlook(160)))) == 10
    message = r"k_max: 3 is a cap below the group size k_min=4; raise k_max to at least 4 or lower k_min"
    with pytest.raises(ValueError, match=message):
        Sequential(k_max=3)


# ---- two phases ---------------------------------------------------------------------------------------


def test_two_phases_go_on_until_a_group_holds_right_and_wrong_answers_the_least_drawn_first() -> None:
    batch = batch_of([[1.0] * 4, [1.0, 0.0], [0.0] * 2])
    budget = TwoPhase(group_size=3, k_max=6)
    assert asked(budget.decide(progress(batch)).more) == {70: 2, 72: 3}
    assert asked(budget.decide(progress(batch, 4)).more) == {70: 1, 72: 3}
    assert asked(budget.decide(progress(batch, 1, 1)).more) == {72: 1}
    assert budget.shortfall(progress(batch)) == pytest.approx(2 / 3)
    for rollouts, rounds in ((0, 9), (9, 0)):
        assert budget.decide(progress(batch, rollouts, rounds)).done
    assert asked(TwoPhase(group_size=2, k_max=4).decide(progress(batch)).more) == {72: 2}
    assert TwoPhase(group_size=2, k_max=2).decide(progress(batch)).done
    assert budget.shortfall(progress(batch_of([]))) == 0.0


@pytest.mark.parametrize(
    ("right", "wrong", "goes_on"), [(2, 1, False), (3, 1, True), (2, 2, True), (0, 0, False)]
)
def test_two_phases_count_right_and_wrong_answers(right: int, wrong: int, goes_on: bool) -> None:
    """Two right and one wrong; the fourth has no verdict. Right is above the middle of the range."""
    batch = batch_of([[3.0, 2.0, 1.0, 3.0]], verdict_N=np.array([0, 0, 0, 1]))
    shown = progress(batch, scale=Scale(-1.0, 3.0))
    assert TwoPhase(right=right, wrong=wrong).decide(shown).done != goes_on


def test_two_phases_know_their_rounds_and_refuse_what_never_fits() -> None:
    assert TwoPhase(group_size=4, k_max=15).rounds() == 4
    assert TwoPhase(group_size=4, k_max=4).rounds() == 1
    assert TwoPhase(group_size=5).first_round() == 5
    assert len(asked(TwoPhase(reserve=0.75).select(outlook(160)))) == 10
    with pytest.raises(ValueError, match=r"k_max: 3 is a cap below .* group_size=4; raise k_max"):
        TwoPhase(k_max=3)
    with pytest.raises(ValueError, match=r"right \+ wrong: 9 answers never fit k_max=8; raise k_max"):
        TwoPhase(k_max=8, right=4, wrong=5)
    assert TwoPhase(k_max=8, right=4, wrong=4).k_max == 8
