"""Priors and estimators by hand: what they say before any evidence, what a step teaches, what is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.strategies.made import batch_of
from trainables.errors import StrategyError
from trainables.strategies.batch import CriticNeeds, Features, Kind, Needs, Stats
from trainables.strategies.config import parse_strategy
from trainables.strategies.estimators.gae import Gae
from trainables.strategies.estimators.monte_carlo import MonteCarlo
from trainables.strategies.groups import Groups
from trainables.strategies.priors.base import Prior
from trainables.strategies.priors.critic import CriticPrior
from trainables.strategies.priors.global_mean import GlobalPrior
from trainables.strategies.priors.greedy import GreedyPrior
from trainables.strategies.priors.none import NoPrior
from trainables.strategies.priors.pool import PoolPrior
from trainables.strategies.priors.probe import ProbePrior
from trainables.strategies.priors.probing.buffer import rows_of
from trainables.strategies.priors.probing.regression import PartProjection
from trainables.strategies.priors.smoothed.batchwise import BatchwisePrior
from trainables.strategies.priors.smoothed.kernel import KernelPrior
from trainables.strategies.priors.smoothed.sharing import Sharing, improved, shared
from trainables.strategies.priors.strata import StrataPrior
from trainables.strategies.priors.tracker import TrackerPrior
from trainables.strategies.scale import UNIT, Scale
from trimtab.errors import SpecError

WIDE = Scale(-1.0, 3.0)
IDS, ZERO = np.array([70, 71, 72, 99]), np.zeros(4, np.int64)


def close(found: np.ndarray | None, want: Any) -> None:
    assert found is not None
    np.testing.assert_allclose(found, want, atol=1e-12)


# ---- of this step -------------------------------------------------------------------------------------


def test_the_pool_is_the_mean_of_the_other_prompts() -> None:
    batch = batch_of([[3.0, -1.0], [3.0], [-1.0], [2.0]], verdict_N=np.array([0, 0, 0, 0, 1]))
    found = PoolPrior().begin(WIDE).predict(batch)
    close(found.mean_P, [1.0, 0.0, 2.0, 1.0])
    assert found.silent_P is not None
    assert found.silent_P.tolist() == [False] * 4
    alone = PoolPrior().begin(UNIT).predict(batch_of([[1.0], [0.0]], verdict_N=np.array([0, 1])))
    close(alone.mean_P, [np.nan, 1.0])
    assert alone.silent_P is not None
    assert alone.silent_P.tolist() == [True, False]


def test_the_greedy_answer_is_the_estimate_and_none_is_silence() -> None:
    batch = batch_of(
        [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]],
        kind_N=np.array([Kind.SAMPLE, Kind.GREEDY] * 2 + [Kind.SAMPLE, Kind.SAMPLE]),
        verdict_N=np.array([0, 0, 0, 1, 0, 0]),
    )
    greedy = GreedyPrior()
    assert greedy.begin(UNIT) is greedy
    found = greedy.predict(batch)
    close(found.mean_P, [1.0, np.nan, np.nan])
    assert found.silent_P is not None
    assert found.silent_P.tolist() == [False, True, True]
    assert (greedy.extra, GreedyPrior.extra_rollouts) == (Kind.GREEDY, 1)


def test_a_prior_needs_nothing_and_keeps_nothing_unless_it_says_so() -> None:
    prior: Prior = NoPrior().begin(UNIT)
    batch = batch_of([[1.0]])
    assert prior.predict(batch) is None
    assert prior.predict_prompts(IDS, ZERO) is None
    assert prior.targets(batch) is None
    assert (prior.needs(), prior.metrics(batch), prior.state_dict()) == (Needs(), {}, {})


# ---- running rates ------------------------------------------------------------------------------------


def test_running_rates_before_any_evidence() -> None:
    """Between prompts: 1/12; within one: 1/2 - 1/12 - 1/4 = 1/6, here times 16; two pseudo-rollouts."""
    found = StrataPrior().begin(WIDE).predict_prompts(IDS, ZERO)
    close(found.mean_P, [1.0] * 4)
    close(found.sd_P, [4 * (1 / 12 + 1 / 6 / 2) ** 0.5] * 4)
    close(found.within_P, [16 / 6] * 4)
    close(StrataPrior(start=0.25).begin(UNIT).predict_prompts(IDS, ZERO).mean_P, [0.25] * 4)


def test_a_step_of_running_rates_by_hand() -> None:
    """Stratum 2: 1, 0, 1 and a lone 0; stratum 5: 0, 0. Later rounds and failed verdicts are no evidence."""
    batch = batch_of(
        [[3.0, -1.0, 3.0, 3.0], [-1.0], [-1.0, -1.0, 3.0]],
        stratum_P=np.array([2, 2, 5]),
        round_N=np.array([0, 0, 0, 1, 0, 0, 0, 0]),
        verdict_N=np.array([0] * 7 + [1]),
    )
    prior = StrataPrior(keep=0.5).begin(WIDE)
    prior.observe(batch, Stats(0))
    square = (2 / 3) ** 2 - (1 / 3) / 3
    assert prior.stratum_S.tolist() == [2, 5]
    close(prior.sums_5S, [[4, 2], [2, 0], [1, 1], [2 / 3, 0], [square, 0]])
    found = prior.predict_prompts(np.arange(4), np.array([2, 5, 3, 9]))
    pool = (2 + 1) / (6 + 2)
    mean = np.array([(2 + 2 * pool) / 6, 2 * pool / 4, pool, pool])
    close(found.mean_P, -1 + 4 * mean)
    first, second = (2 / 3 + 1) / 4, (square + 2 * (1 / 12 + 1 / 4)) / 4
    spread, within = second - first**2, first - second
    close(found.sd_P, 4 * np.sqrt(spread + within / np.array([6, 4, 2, 2])))
    close(found.within_P, [16 * within] * 4)
    close(prior.predict(replace(batch, stratum_P=np.array([5, 9, 2]))).mean_P, -1 + 4 * mean[[1, 2, 0]])
    prior.observe(batch_of([[3.0, 3.0]], stratum_P=np.array([3])), Stats(1))
    assert prior.stratum_S.tolist() == [2, 3, 5]
    close(prior.sums_5S[:3], [[2, 2, 1], [1, 2, 0], [0.5, 1, 0.5]])


def test_one_mean_over_all_has_one_stratum() -> None:
    batch = batch_of([[1.0, 0.0], [1.0, 1.0]], stratum_P=np.array([2, 5]))
    prior = GlobalPrior(keep=0.9).begin(UNIT)
    prior.observe(batch, Stats(0))
    assert prior.stratum_S.tolist() == [0]
    close(prior.predict(batch).mean_P, [(3 + 2 * (4 / 6)) / 6] * 2)
    close(prior.predict_prompts(np.array([1]), np.array([7])).mean_P, [(3 + 2 * (4 / 6)) / 6])


def test_variances_are_never_negative() -> None:
    """Groups of 1 and 0 have an unbiased squared mean of 0 beside a mean of 1/2."""
    prior = GlobalPrior(keep=1.0).begin(UNIT)
    for _ in range(40):
        prior.observe(batch_of([[1.0, 0.0]] * 8), Stats(0))
    found = prior.predict_prompts(IDS, ZERO)
    assert found.sd_P is not None
    close(found.sd_P, [(0.5 - 2 / 3 / 322) ** 0.5 / 642**0.5] * 4)
    certain = GlobalPrior(keep=1.0).begin(UNIT)
    for _ in range(200):
        certain.observe(batch_of([[1.0] * 4] * 8), Stats(0))
    within = certain.predict_prompts(IDS, ZERO).within_P
    assert within is not None
    assert (within >= 0).all()


def test_running_rates_restore_and_share_nothing() -> None:
    prior = StrataPrior().begin(UNIT)
    prior.observe(batch_of([[1.0, 0.0]], stratum_P=np.array([3])), Stats(0))
    state: Any = prior.state_dict()
    assert set(state) == {"stratum_S", "sums_5S"}
    again = StrataPrior().begin(UNIT)
    again.load_state_dict({"stratum_S": [3], "sums_5S": state["sums_5S"].ravel().tolist()})
    close(again.predict_prompts(IDS, ZERO + 3).mean_P, prior.predict_prompts(IDS, ZERO + 3).mean_P)
    again.load_state_dict(state)
    again.sums_5S[:] = 9.0
    again.stratum_S[:] = 9
    assert state["sums_5S"].tolist() == prior.sums_5S.tolist() != again.sums_5S.tolist()
    assert state["stratum_S"].tolist() == [3]
    prior.sums_5S[:] = 8.0
    assert (state["sums_5S"] != 8.0).all()


# ---- tracker ------------------------------------------------------------------------------------------


def test_the_tracker_by_hand() -> None:
    """First visits: 8 (s + 1/2) / (k + 1). Changes of 0, .06 and 1 nat keep .96, .875 (1/2 is less), .875."""
    prior = TrackerPrior().begin(WIDE)
    close(prior.predict_prompts(IDS, ZERO).mean_P, [1.0] * 4)
    prior.observe(batch_of([[3.0, -1.0, 3.0], [-1.0]]), Stats(0, np.zeros(2)))
    assert prior.prompt_M.tolist() == [70, 71]
    close(prior.counts_2M, [[5.0, 2.0], [3.0, 6.0]])
    found = prior.predict_prompts(IDS, ZERO)
    pool = (7 + 1) / (16 + 2)
    mean = np.array([5 / 8, 2 / 8, pool, pool])
    close(found.mean_P, -1 + 4 * mean)
    close(found.sd_P, 4 * np.sqrt(mean * (1 - mean) / (np.array([8, 8, 1, 1]) + 1)))
    assert found.fresh_P is not None
    assert found.fresh_P.tolist() == [False, False, True, True]
    later = batch_of([[3.0, 3.0], [-1.0, 3.0], [-1.0]], prompt_id_P=np.array([71, 70, 60]))
    prior.observe(later, Stats(1, np.array([0.06, 0.0, 1.0])))
    assert prior.prompt_M.tolist() == [60, 70, 71]
    close(prior.counts_2M, [[2.0, 0.96 * 5 + 1, 0.875 * 2 + 2], [6.0, 0.96 * 3 + 1, 0.875 * 6]])
    close(prior.predict(later).mean_P, prior.predict_prompts(later.prompt_id_P, ZERO).mean_P)


def test_the_tracker_forgets_by_halves() -> None:
    prior = TrackerPrior(half_change=0.1, keep_min=0.1, keep_max=1.0, mass=2.0).begin(UNIT)
    prior.observe(batch_of([[1.0], [0.0], [1.0]]), Stats(0, np.zeros(3)))
    close(prior.counts_2M, [[1.5, 0.5, 1.5], [0.5, 1.5, 0.5]])
    prior.observe(batch_of([[1.0], [0.0], [1.0]]), Stats(1, np.array([0.1, 0.2, 0.0])))
    close(prior.counts_2M, [[1.75, 0.125, 2.5], [0.25, 1.375, 0.5]])


def test_the_tracker_measures_nothing_where_it_forgets_by_a_constant() -> None:
    constant = TrackerPrior(keep_min=0.5, keep_max=0.5).begin(UNIT)
    assert constant.needs() == Needs()
    for step in range(2):
        constant.observe(batch_of([[1.0]]), Stats(step))
    close(constant.counts_2M, [[4.0], [1.0]])
    measuring = TrackerPrior().begin(UNIT)
    assert measuring.needs() == Needs(logprob_change=True)
    message = r"^strategy.prior: 'tracker' forgets by .* set keep_min equal to keep_max$"
    with pytest.raises(StrategyError, match=message):
        measuring.observe(batch_of([[1.0]]), Stats(0))
    with pytest.raises(ValueError, match=r"keep_min: 0.9 exceeds keep_max=0.5; lower keep_min"):
        TrackerPrior(keep_min=0.9, keep_max=0.5)


def test_the_tracker_learns_from_verified_rollouts_of_the_first_round_and_restores() -> None:
    batch = batch_of(
        [[1.0, 1.0, 0.0], [1.0]], round_N=np.array([0, 0, 1, 0]), verdict_N=np.array([0, 1, 0, 1])
    )
    prior = TrackerPrior().begin(UNIT)
    prior.observe(batch, Stats(0, np.zeros(2)))
    assert prior.prompt_M.tolist() == [70]
    close(prior.counts_2M, [[6.0], [2.0]])
    prior.observe(replace(batch, verdict_N=np.ones(4, np.int64)), Stats(1, np.zeros(2)))
    close(prior.counts_2M, [[6.0], [2.0]])
    state: Any = prior.state_dict()
    again = TrackerPrior().begin(UNIT)
    again.load_state_dict({"prompt_M": [70], "counts_2M": [6.0, 2.0]})
    close(again.predict_prompts(IDS, ZERO).mean_P, prior.predict_prompts(IDS, ZERO).mean_P)
    again.load_state_dict(state)
    again.counts_2M[:] = 9.0
    again.prompt_M[:] = 9
    assert (state["counts_2M"].tolist(), state["prompt_M"].tolist()) == ([[6.0], [2.0]], [70])


# ---- kernel and batch-wise ----------------------------------------------------------------------------


def test_kernels_by_hand() -> None:
    age_V = np.array([1.0, 2.0, 4.0])
    close(KernelPrior(bandwidth=0.5).weight(age_V, 4), [0.5, 0.0, 0.0])
    close(KernelPrior(bandwidth=0.5, shape="exponential").weight(age_V, 4), np.exp([-0.5, -1.0, -2.0]))


def test_the_kernel_prior_by_hand() -> None:
    """In step 3 the visits of steps 1 and 2 weigh 1/3 and 2/3. Two pseudo-rollouts start the mean of all."""
    prior = KernelPrior(start=0.25).begin(WIDE)
    before = prior.predict_prompts(IDS, ZERO)
    close(before.mean_P, [0.0] * 4)
    close(before.evidence_P, [0.0] * 4)
    prior.observe(batch_of([[3.0, -1.0, 3.0], [-1.0]], verdict_N=np.array([0, 0, 1, 0])), Stats(0))
    prior.observe(batch_of([[-1.0], [], [3.0]], prompt_id_P=np.array([70, 71, 72])), Stats(1))
    close(prior.visits.row_4V, [[70, 71, 70, 72], [1, 1, 2, 2], [2, 1, 1, 1], [1, 0, 0, 1]])
    found = prior.predict_prompts(IDS, ZERO)
    pool = (1 / 3 + 2 / 3 + 2 * 0.25) / (3 / 3 + 4 / 3 + 2)
    close(found.mean_P, -1 + 4 * np.array([(1 / 3) / (4 / 3), 0.0, 1.0, pool]))
    close(found.evidence_P, [4 / 3, 1 / 3, 2 / 3, 0.0])
    assert found.fresh_P is not None
    assert found.fresh_P.tolist() == [False, False, False, True]
    close(prior.predict(batch_of([[1.0], [1.0]])).mean_P, [0.0, -1.0])
    close(prior.predict_prompts(np.array([1]), ZERO[:1]).evidence_P, [0.0])


def test_visits_beyond_the_kernel_are_dropped_and_the_rest_restores() -> None:
    prior = KernelPrior(bandwidth=0.5).begin(UNIT)
    for step in range(3):
        prior.observe(batch_of([[1.0]]), Stats(step))
    assert prior.visits.row_4V[1].tolist() == [3.0], "in step 4 the width is 2: the visit of step 2 weighs 0"
    assert prior.visits.age_V.tolist() == [1.0]
    state: Any = prior.state_dict()
    again = KernelPrior(bandwidth=0.5).begin(UNIT)
    again.load_state_dict({"row_4V": state["row_4V"].ravel().tolist(), "steps": 3})
    assert (again.visits.steps, again.visits.row_4V.tolist()) == (3, prior.visits.row_4V.tolist())
    again.load_state_dict(state)
    again.visits.row_4V[:] = 9.0
    assert state["row_4V"].tolist() == prior.visits.row_4V.tolist() != again.visits.row_4V.tolist()


def test_improved_and_shared_by_hand() -> None:
    """exp(1 / beta) = 3: 1/4 becomes 3/6. Values .5 and .75 of prompts with means 1/2 and 1."""
    close(improved(np.array([0.25, 0.0, 1.0]), 1 / np.log(3)), [0.5, 0.0, 1.0])
    close(improved(np.array([0.25]), np.inf), [0.25])
    groups = Groups(np.array([0, 0, 1, 2, 3]), np.array([1.0, 0.0, 1.0, 1.0, 1.0]), 5)
    value_P = np.array([0.5, 0.75, 0.8, 0.005, 0.6])
    # sum r / (1 - v): 2, 4, 5; sum v / (1 - v): 2, 3, 4.
    close(shared(groups, value_P), [0.5 * 9 / 7, 0.75 * 7 / 6, 0.8 * 6 / 5, 0.005, 0.6])
    edges = Groups(np.arange(4), np.ones(4), 4)
    # Of the first two: r / (1 - v) is 1 / .99 and 1 / .01, v / (1 - v) is .01 / .99 and .99 / .01.
    close(shared(edges, np.array([0.01, 0.99, 0.009, 0.991])), [0.01 / 0.99, 1.0, 0.009, 0.991])
    close(shared(Groups(np.zeros(2, np.int64), np.ones(2), 1), np.array([0.5])), [0.5])


def test_batchwise_rates_lean_on_all_by_one_rollout_and_forget() -> None:
    """After two steps of keep 1/2: prompt 70 counts 2 / 2 + 1, prompt 71 counts 1/2."""
    prior = BatchwisePrior(keep=0.5).begin(WIDE)
    assert isinstance(prior, Sharing)
    close(prior.rates(IDS), [0.5] * 4)
    prior.observe(batch_of([[3.0, -1.0], [-1.0]]), Stats(0))
    prior.observe(batch_of([[3.0]]), Stats(1))
    pool = (0.5 + 1 + 1) / (1.5 + 1 + 2)
    close(prior.rates(IDS), [(1.5 + pool) / 3, pool / 1.5, pool, pool])
    batch = batch_of([[3.0, 3.0], [-1.0, 3.0]])
    groups = Groups.of(batch, WIDE)
    unit = groups.with_values(WIDE.unit(groups.value_N))
    prior.choice = 3
    assert prior.metrics(batch) == {"basis_inverse_beta": 1.0}
    close(prior.predict(batch).mean_P, -1 + 4 * shared(unit, improved(prior.rates(IDS[:2]), 1.0)))
    state: Any = prior.state_dict()
    assert (state["choice"], state["steps"]) == (3, 2)
    again = BatchwisePrior(keep=0.5).begin(WIDE)
    again.load_state_dict(state)
    close(again.predict(batch).mean_P, prior.predict(batch).mean_P)


def test_batchwise_forgets_what_weighs_less_than_a_thousandth() -> None:
    prior = BatchwisePrior(keep=0.1).begin(UNIT)
    for step in range(6):
        prior.observe(batch_of([[1.0]]), Stats(step))
    assert prior.visits.row_4V[1].tolist() == [3.0, 4.0, 5.0, 6.0]


# ---- critic and estimators ----------------------------------------------------------------------------


def test_the_critic_asks_in_reward_units() -> None:
    asked = CriticPrior(start=0.25, clip=0.5, lr=0.1, mini_batches=3).begin(WIDE).needs()
    assert asked == Needs(values=CriticNeeds("token", 0.1, 3, 0.0, 2.0))
    assert CriticPrior(level="prompt").begin(UNIT).needs() == Needs(values=CriticNeeds("prompt"))


def test_the_critics_values_are_held_within_what_a_reward_can_be() -> None:
    """Penalty .5: a state may be worth -1.5, a prompt -1 at least."""
    batch = batch_of([[3.0, -1.0], [3.0]], length_N=np.array([2, 1, 1]), verdict_N=np.array([0, 0, 1]))
    batch = replace(batch, values=(np.array([-2.0, 9.0]), np.array([0.5]), np.array([2.0])))
    critic = CriticPrior(warmup_updates=1).begin(replace(WIDE, penalty=0.5))
    found = critic.predict(batch)
    close(found.mean_N, [-1.0, 0.5, 2.0])
    assert found.tokens is not None
    assert [part.tolist() for part in found.tokens] == [[-1.5, 3.0], [0.5], [2.0]]
    assert found.silent_N is not None
    assert found.silent_N.tolist() == [True] * 3
    target = critic.targets(batch)
    assert [part.tolist() for part in target[:2]] == [[3.0, 3.0], [-1.0]]
    assert np.isnan(target[2]).all()
    critic.observe(batch, Stats(0))
    assert critic.predict(batch).silent_N is None
    assert critic.state_dict() == {"seen": 1}
    critic.load_state_dict({"seen": np.int64(0)})
    assert critic.predict(batch).silent_N is not None
    per_prompt = CriticPrior(level="prompt").begin(WIDE).predict(batch)
    close(per_prompt.mean_P, [0.5, 2.0])
    assert per_prompt.tokens is per_prompt.silent_N is None
    with pytest.raises(StrategyError, match=r"^strategy.prior: 'critic' reads values, .* has none$"):
        critic.predict(replace(batch, values=None))


VALUES = (np.array([0.5, 0.25, 0.75]), np.array([0.5]), np.zeros(0))
REWARD = np.array([1.0, -1.0, 7.0])


def test_monte_carlo_is_return_minus_value() -> None:
    advantages, targets = MonteCarlo().tokens(REWARD, VALUES)
    assert [part.tolist() for part in advantages] == [[0.5, 0.75, 0.25], [-1.5], []]
    assert [part.tolist() for part in targets] == [[1.0] * 3, [-1.0], []]


def test_gae_by_hand() -> None:
    """Differences -.25, .5 and 1 - .75; lambda = 1/2: .25, .5 + .125, -.25 + .3125."""
    advantages, targets = Gae(lam=0.5).tokens(REWARD, VALUES)
    close(advantages[0], [0.0625, 0.625, 0.25])
    close(advantages[1], [-1.5])
    assert len(advantages[2]) == len(targets[2]) == 0
    close(targets[0], [0.5625, 0.875, 1.0])
    assert Gae().tokens(np.zeros(0), ()) == ((), ())
    zero, _ = Gae(lam=0.0).tokens(REWARD, VALUES)
    close(zero[0], [-0.25, 0.5, 0.25])


def test_a_length_adaptive_lambda_grows_with_the_response() -> None:
    """a = 1/2: 1 - 2/3 for three tokens, and 0 where it would be negative."""
    advantages, _ = Gae(length_adaptive=0.5).tokens(REWARD, VALUES)
    close(advantages[0], [-0.25 + (0.5 + 0.25 / 3) / 3, 0.5 + 0.25 / 3, 0.25])
    close(advantages[1], [-1.5])


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            {"preset": "ppo", "fusion": "beta"},
            r"estimator: 'gae' needs token .* fusion to prior_only$",
        ),
        ({"preset": "ppo", "prior": "strata"}, r"got prior 'strata' under fusion 'prior_only'; set prior"),
        (
            {"preset": "ppo", "group_size": 2, "normaliser": "group_std"},
            r"normaliser: 'group_std' .* to batch_std or none$",
        ),
    ],
)
def test_gae_refuses_what_has_no_token_values(written: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_strategy(written)


@pytest.mark.parametrize("states", ["prompt", "trajectory"])
def test_a_rollout_whose_states_cannot_be_read_is_silent_even_where_its_prompt_speaks(states: Any) -> None:
    """Of prompt 70 the first is read, of 71 nothing. Unfitted, the probe says `start`."""
    state_NF = np.array([[1.0], [np.nan], [np.inf]], np.float32)
    features = Features(0, state_NF, np.ones_like(state_NF), np.ones((3, 3), np.float32))
    batch = replace(batch_of([[3.0, -1.0], [-1.0]]), features=features)
    found = ProbePrior(states=states, start=0.25, max_bad_features=1.0).begin(WIDE).predict(batch)
    assert found.silent_N is not None
    assert found.silent_N.tolist() == [False, True, True]
    if states == "trajectory":
        close(found.mean_N, [0.0, np.nan, np.nan])
        return
    close(found.mean_P, [0.0, np.nan])
    assert found.silent_P is not None
    assert found.silent_P.tolist() == [False, True]


def test_a_probes_rows_keep_the_order_of_a_groups_rollouts() -> None:
    """Three interleaved groups of 80, by group; a state names its rollout."""
    prompt_N = np.arange(240) % 3
    state_NF = np.arange(240, dtype=np.float32)[:, None]
    batch = replace(batch_of([[1.0] * 80] * 3), prompt_N=prompt_N)
    features = Features(0, state_NF, state_NF, np.ones((240, 3), np.float32))
    rows = rows_of(batch, features, UNIT, per_prompt=False)
    assert rows.group_R.tolist() == [0] * 80 + [1] * 80 + [2] * 80
    assert rows.response_RF[:, 0].tolist() == [*range(0, 240, 3), *range(1, 240, 3), *range(2, 240, 3)]


@pytest.mark.parametrize("order", ["released", "standardised"])
def test_few_rows_have_fewer_components_than_rows(order: Any) -> None:
    part_RF = np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32)
    basis_FK = PartProjection.fit(part_RF, 8, order).basis_FK
    assert basis_FK is not None
    assert basis_FK.shape == (10, 2)
