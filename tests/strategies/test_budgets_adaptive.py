"""Budgets that spend by a prompt's own outcomes, by hand (see test_adaptive.py for what holds on average)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.strategies.made import batch_of
from tests.strategies.test_budgets import asked, outlook, progress
from trainables.errors import StrategyError
from trainables.strategies.batch import Stats
from trainables.strategies.budget.adaptive.cero import Cero
from trainables.strategies.budget.adaptive.duals import START, Duals, worth
from trainables.strategies.budget.adaptive.hits import allocate_hits, hit_gains, hit_utility
from trainables.strategies.budget.adaptive.hora import Hora
from trainables.strategies.budget.adaptive.sara import Sara
from trainables.strategies.budget.adaptive.sprt import log_ratio
from trainables.strategies.scale import UNIT, Scale

WIDE = Scale(-1.0, 3.0)


# ---- HORA ---------------------------------------------------------------------------------------------


def test_hit_gains_by_hand() -> None:
    """Uniform prior: 1/2, 1/2 of what is left times 1/3, and so on. After one right, Beta(2, 1)."""
    np.testing.assert_allclose(hit_gains(np.zeros(1), np.zeros(1), 3), [[1 / 2, 1 / 6, 1 / 12]])
    np.testing.assert_allclose(hit_gains(np.ones(1), np.zeros(1), 2), [[2 / 3, 1 / 6]])
    np.testing.assert_allclose(hit_utility(np.zeros(3), np.zeros(3), np.array([2, 0, 3])), [2 / 3, 0, 3 / 4])


def test_hits_go_where_the_gain_is_largest_within_room_and_cap() -> None:
    """Gains: .5, 1/6, 1/12 without a past; 2/3, 1/6 after a right answer; 1/3, 1/6 after a wrong one."""
    right_P, wrong_P, room_P = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]), np.array([3, 3, 3])
    assert [allocate_hits(right_P, wrong_P, room_P, cap).tolist() for cap in range(4)] == [
        [0, 0, 0],
        [0, 1, 0],
        [1, 1, 0],
        [1, 1, 1],
    ]
    assert allocate_hits(right_P, wrong_P, np.array([1, 0, 2]), 9).tolist() == [1, 0, 2]
    assert allocate_hits(right_P, wrong_P, np.array([1, 1, 1]), 3).tolist() == [1, 1, 1]
    assert allocate_hits(np.zeros(0), np.zeros(0), np.zeros(0, np.int64), 3).tolist() == []
    with pytest.raises(StrategyError, match=r"^cap: -1 rollouts is negative; .* ends at 0$"):
        allocate_hits(right_P, wrong_P, room_P, -1)


def test_hora_probes_and_then_spends_all_that_is_left() -> None:
    budget = Hora(group_size=4, probes=2, high=6)
    assert asked(budget.select(outlook(17))) == {100: 2, 101: 2, 102: 2, 103: 2}
    assert (budget.first_round(), budget.least(), budget.rounds()) == (2, 4, 2)
    batch = batch_of([[3.0, -1.0, 3.0], [-1.0, -1.0], [-1.0, -1.0]], dropped_P=np.array([0, 0, 1], bool))
    for cap in (3, 99):
        found = budget.decide(progress(batch, cap, scale=WIDE))
        want = allocate_hits(np.array([2.0, 0.0]), np.array([1.0, 2.0]), np.array([3, 4]), cap)
        assert asked(found.more) == {id: count for id, count in zip((70, 71), want, strict=True) if count}
    assert budget.decide(progress(batch, 9, 0, WIDE)).done
    assert not budget.decide(progress(batch, 9, 1, WIDE)).done
    assert budget.decide(progress(batch, 0, 9, WIDE)).more is None


@pytest.mark.parametrize("bounds", [{"group_size": 3, "probes": 4}, {"group_size": 9, "high": 8}])
def test_a_mean_outside_hora_is_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"group_size: {bounds['group_size']} is outside \[probes=.*bounds"):
        Hora(**bounds)
    assert Hora(group_size=4, probes=4, high=4).high == 4


# ---- CERO ---------------------------------------------------------------------------------------------


def test_worth_by_hand() -> None:
    """Beta(1, 1), Beta(2, 1) and Beta(3, 2)."""
    np.testing.assert_allclose(worth(np.array([0, 1, 2]), np.array([0, 0, 1])), [1 / 6, 1 / 6, 6 / 30])


def known(*mu: float, price: float = START) -> Duals:
    """Prompts 100, 101, ... with one right and one wrong answer each."""
    counts = np.ones(len(mu))
    state_3M = np.stack([counts, counts, np.array(mu)])
    return Duals(Cero(group_size=6, low=2, high=12), 100 + np.arange(len(mu)), state_3M, price)


def test_a_prompt_asks_by_its_dual_against_the_price() -> None:
    """eta = .25 .25 / 12 = .0052: within it of the price a prompt asks for the mean."""
    budget = known(0.11, 0.104, 0.1, 0.096, 0.09, price=0.1)
    assert budget.eta == pytest.approx(0.0625 / 12)
    assert asked(budget.select(outlook(36, prompts=5))) == {100: 12, 101: 6, 102: 6, 103: 6, 104: 2}
    assert sum(asked(budget.select(outlook(31, prompts=5))).values()) == 31, "the smallest dual is cut first"
    assert asked(budget.select(outlook(31, prompts=5)))[103] == 5
    assert asked(budget.select(outlook(31, prompts=5, overhead=1)))[100] == 12
    assert list(asked(budget.select(outlook(31, prompts=9, overhead=1)))) == [100, 101, 102, 103]
    assert sum(asked(budget.select(outlook(31, prompts=9, overhead=1))).values()) == 27
    met = Duals(Cero(group_size=6, low=2, high=12))
    assert set(asked(met.select(outlook(36))).values()) == {6}
    assert asked(Cero(group_size=6).select(outlook(12))) == {100: 6, 101: 6}
    assert (Cero(low=3).first_round(), Cero(group_size=9).least()) == (3, 9)


def test_duals_learn_from_verified_answers_and_from_what_was_drawn() -> None:
    """Prompt 71 is met for the first time; 70 had two right and a wrong one, and one more without verdict."""
    config = Cero(group_size=6, low=2, high=12, rate=0.5)
    budget = Duals(config, np.array([70, 90]), np.array([[2.0, 4.0], [1.0, 4.0], [0.12, 0.2]]), 0.1)
    batch = batch_of([[3.0, -1.0, 3.0], [-1.0, -1.0]], verdict_N=np.array([0, 0, 1, 0, 0]))
    budget.observe(batch, Stats(0), WIDE)
    eta = 0.125 / 12
    v_70, v_71 = 4 * 3 / (7 * 8), 1 * 3 / (4 * 5)
    mu_70 = 0.12 - eta * (3 - 6 * math.log(v_70 / 0.12))
    mu_71 = START - eta * (2 - 6 * math.log(v_71 / START))
    assert budget.prompt_M.tolist() == [70, 71, 90]
    np.testing.assert_allclose(budget.state_3M, [[3, 0, 4], [2, 2, 4], [mu_70, min(mu_71, v_71), 0.2]])
    # Prompt 70 asked for 12 and prompt 71, below the price by more than eta, for 2.
    assert budget.price == pytest.approx(0.1 + eta * (7 - 6))


def test_duals_stay_between_nothing_and_what_a_rollout_is_worth() -> None:
    """A dual of 0 plans the most, 12, and rises by eta 10; one above its worth plans none and falls to it."""
    budget = Duals(Cero(group_size=6, low=2, high=12), np.array([70, 71]), np.zeros((3, 2)), 0.0)
    budget.state_3M[2] = [0.0, 0.4]
    budget.observe(batch_of([[1.0, 0.0], [1.0, 0.0]]), Stats(0), UNIT)
    np.testing.assert_allclose(budget.state_3M[2], [0.0625 / 12 * 10, 0.2])
    assert budget.price == pytest.approx(0.0625 / 12 * 3), "asked for 6 and 12"
    low = Duals(Cero(group_size=6, low=2, high=12), np.array([70]), np.array([[0.0], [0.0], [0.001]]), 0.25)
    low.observe(batch_of([[1.0] * 40]), Stats(0), UNIT)
    assert low.state_3M[2, 0] == 0.0
    assert low.price == pytest.approx(0.25 - 4 * 0.0625 / 12)
    rising = known(0.9, price=0.25)
    rising.prompt_M = np.array([70])
    rising.observe(batch_of([[1.0, 0.0]]), Stats(0), UNIT)
    assert rising.price == 0.25


def test_duals_note_the_price_and_who_asked_for_the_most_and_restore() -> None:
    budget = known(0.2, 0.05, price=0.1)
    budget.prompt_M = np.array([70, 71])
    shown = progress(batch_of([[1.0], [0.0]]))
    budget.state_3M[2] = [0.2, 0.05]
    assert budget.notes(shown) == {"rollout_price": 0.1, "asked_most": 0.5}
    assert budget.notes(progress(batch_of([]))) == {"rollout_price": 0.1, "asked_most": 0.0}
    state: Any = budget.state_dict()
    again = Duals(budget.config)
    again.load_state_dict({**state, "state_3M": state["state_3M"].ravel().tolist()})
    assert again.prompt_M.tolist() == [70, 71]
    assert again.state_3M.tolist() == budget.state_3M.tolist()
    assert again.price == 0.1
    again.load_state_dict(state)
    again.state_3M[:] = 7.0
    again.prompt_M[:] = 7
    assert state["state_3M"].tolist() == budget.state_3M.tolist() != again.state_3M.tolist()
    assert state["prompt_M"].tolist() == [70, 71]


@pytest.mark.parametrize("bounds", [{"group_size": 3, "low": 4}, {"group_size": 9, "high": 8}])
def test_a_mean_outside_cero_is_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"group_size: {bounds['group_size']} is outside \[low=.*bounds"):
        Cero(**bounds)
    assert Cero(group_size=4, low=4, high=4).high == 4


# ---- SARA ---------------------------------------------------------------------------------------------


def test_the_log_ratio_by_hand() -> None:
    found = log_ratio(np.array([2.0, 0.0]), np.array([1.0, 3.0]), 0.1, 0.4)
    np.testing.assert_allclose(found, [2 * math.log(4) + math.log(2 / 3), 3 * math.log(2 / 3)])


HALF, NONE, ONE = [3.0, -1.0, 3.0, -1.0], [-1.0] * 4, [3.0, -1.0, -1.0, -1.0]


def test_sara_completes_the_committed_probes_the_undecided_and_drops_the_abandoned() -> None:
    """Of 40 rollouts left, 12 and 12 complete the two live groups: one fresh prompt of 16 fits the rest."""
    batch, budget = batch_of([HALF, NONE, ONE]), Sara()
    found = budget.decide(progress(batch, 40, 9, WIDE))
    assert asked(found.more) == {70: 12, 72: 4}
    assert found.drop_P is not None
    assert found.drop_P.tolist() == [False, True, False]
    assert found.new_prompts == 1
    assert budget.decide(progress(batch, 39, 9, WIDE)).new_prompts == 0
    assert budget.decide(progress(batch, 40, 9, WIDE, overhead=1)).new_prompts == 0
    assert asked(budget.decide(progress(batch, 14, 9, WIDE)).more) == {70: 12, 72: 2}
    assert budget.decide(progress(batch, 14, 9, WIDE)).new_prompts == 0
    assert budget.shortfall(progress(batch, scale=WIDE)) == pytest.approx(2 / 3)
    assert budget.shortfall(progress(batch_of([]))) == 0.0
    trained = Sara(train_abandoned=True).decide(progress(batch, 40, 9, WIDE))
    assert trained.drop_P is not None
    assert not trained.drop_P.any()
    assert asked(trained.more) == {70: 12, 72: 4}


def test_sara_completes_the_undecided_in_the_last_round_and_starts_nobody() -> None:
    batch, budget = batch_of([HALF, NONE, ONE]), Sara()
    last = budget.decide(progress(batch, 90, 1, WIDE))
    assert asked(last.more) == {70: 12, 72: 12}
    assert last.new_prompts == 0
    for rollouts, rounds in ((0, 9), (9, 0)):
        over = budget.decide(progress(batch, rollouts, rounds, WIDE))
        assert over.done
        assert over.drop_P is not None
        assert over.drop_P.tolist() == [False, True, False], "what the last round showed is dropped too"


def test_sara_leaves_complete_and_dropped_groups_alone() -> None:
    batch = batch_of([NONE * 4, HALF, NONE], dropped_P=np.array([False, True, False]))
    found = Sara().decide(progress(batch, 31, 9, WIDE))
    assert found.more is None
    assert found.drop_P is not None
    assert found.drop_P.tolist() == [False, True, True]
    assert found.new_prompts == 1
    assert Sara().shortfall(progress(batch, scale=WIDE)) == 0.0


def test_sara_counts_samples_without_a_verdict_as_paid() -> None:
    batch = batch_of([[*HALF, -1.0, -1.0]], verdict_N=np.array([0, 0, 0, 0, 1, 1]))
    assert asked(Sara().decide(progress(batch, 31, 9, WIDE)).more) == {70: 10}


def test_sara_decides_at_walds_thresholds_themselves() -> None:
    """Rates 1/4 and 1/2: log 2 a hit. alpha = beta = 1/3: log 2 commits and -log 2 abandons."""
    budget = Sara(hopeless=0.25, worth=0.5, alpha=1 / 3, beta=1 / 3, probes=2, group_size=8)
    pair = batch_of([[1.0, 0.0]])
    assert asked(budget.decide(progress(pair, 99, 9)).more) == {70: 2}, "log 4/3 is below log 2"
    assert asked(budget.decide(progress(batch_of([[1.0, 0.0, 1.0, 0.0]]), 99, 9)).more) == {70: 2}
    assert asked(budget.decide(progress(batch_of([[1.0, 0.0] * 3]), 99, 9)).more) == {70: 2}


def test_sara_starts_what_it_can_complete_and_refuses_what_cannot_be_tested() -> None:
    budget = Sara(group_size=10, probes=3)
    assert asked(budget.select(outlook(29))) == {100: 3, 101: 3}
    assert (budget.first_round(), budget.least(), budget.rounds()) == (3, 10, 16)
    with pytest.raises(ValueError, match=r"probes: 11 exceeds group_size=10; lower probes"):
        Sara(group_size=10, probes=11)
    assert Sara(group_size=10, probes=10).rounds() == 4
    with pytest.raises(ValueError, match=r"hopeless: 0.3 is not below worth=0.3; lower hopeless"):
        Sara(hopeless=0.3)
    for beta in (0.5, 0.75):
        with pytest.raises(ValueError, match=r"alpha \+ beta: 1.\d+ is not below 1; lower alpha or beta"):
            Sara(alpha=0.5, beta=beta)
