"""Groups, reward ranges and normalisers by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.strategies.made import batch_of
from trainables.errors import StrategyError
from trainables.strategies.batch import Kind, Verdict
from trainables.strategies.groups import Groups, first_round_N
from trainables.strategies.normalisers import BatchStd, BernoulliStd, GroupStd, NoNormaliser, TokenStd
from trainables.strategies.scale import UNIT, Scale, check_batch, check_estimate, verified_N

# Prompt 0: 1, 0, 1 and an unused 1; prompt 1: a lone .5; prompt 2: one unused rollout.
RAGGED = Groups(
    prompt_N=np.array([0, 1, 0, 0, 2, 0]),
    value_N=np.array([1.0, 0.5, 0.0, 1.0, 0.0, 0.0]),
    prompts=4,
    used_N=np.array([True, True, True, True, False, False]),
    round_N=np.array([0, 0, 0, 2, 0, 2]),
)
WIDE = Scale(-1.0, 3.0, 0.5)


def test_sums_means_and_variances_of_ragged_groups() -> None:
    assert RAGGED.count_P.tolist() == [3.0, 1.0, 0.0, 0.0]
    assert RAGGED.sum_P.tolist() == [2.0, 0.5, 0.0, 0.0]
    np.testing.assert_allclose(RAGGED.mean_P, [2 / 3, 0.5, 0.0, 0.0])
    np.testing.assert_allclose(RAGGED.variance_P, [1 / 3, 0.0, 0.0, 0.0])
    assert RAGGED.uniform_P.tolist() == [False, True, True, True]
    assert RAGGED.total(np.arange(6.0)).tolist() == [5.0, 1.0, 0.0, 0.0]
    assert RAGGED.total(None).tolist() == [3.0, 1.0, 0.0, 0.0]
    assert RAGGED.mask_N.tolist() == [True, True, True, True, False, False]


def test_without_a_mask_all_rollouts_count() -> None:
    whole = replace(RAGGED, used_N=None)
    assert whole.count_P.tolist() == [4.0, 1.0, 1.0, 0.0]
    assert whole.count_P.dtype == whole.total(np.ones(6)).dtype == np.float64
    assert whole.total(np.arange(6.0)).tolist() == [10.0, 1.0, 4.0, 0.0]
    assert whole.mask_N.tolist() == [True] * 6
    np.testing.assert_allclose(whole.variance_P[0], 1 / 3)
    assert whole.uniform_P.tolist() == [False, True, True, True]


def test_a_pair_has_half_its_squared_difference_as_variance() -> None:
    groups = Groups(np.array([0, 0, 1, 1]), np.array([1.0, 0.2, 0.7, 0.7]), 2)
    np.testing.assert_allclose(groups.variance_P, [0.32, 0.0])


def test_the_others_are_counted_and_summed_without_the_rollout_itself() -> None:
    count_N, sum_N = RAGGED.others()
    assert count_N.tolist() == [2.0, 0.0, 2.0, 2.0, 0.0, 0.0]
    assert sum_N.tolist() == [1.0, 0.0, 2.0, 1.0, 0.0, 0.0]
    assert [part.tolist() for part in RAGGED.others(False)] == [count_N.tolist(), sum_N.tolist()]


def test_the_others_up_to_the_own_round() -> None:
    """Rows 0 and 2 are of round 0, row 3 of round 2."""
    count_N, sum_N = RAGGED.others(per_round=True)
    assert count_N.tolist() == [1.0, 0.0, 1.0, 2.0, 0.0, 0.0]
    assert sum_N.tolist() == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    assert RAGGED.rounds == 3
    one_round = replace(RAGGED, round_N=None)
    assert one_round.rounds == 1
    assert [a.tolist() for a in one_round.others(True)] == [a.tolist() for a in one_round.others()]
    assert Groups(np.zeros(0, np.int64), np.zeros(0), 0, round_N=np.zeros(0, np.int64)).rounds == 1


def test_totals_are_cumulative_over_rounds() -> None:
    totals = RAGGED.totals(per_round=True)
    assert totals.cell_N.tolist() == [0, 3, 0, 2, 6, 2]
    assert totals.count_C.tolist() == [2, 2, 3, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert totals.sum_C.tolist() == [1, 1, 2, 0.5, 0.5, 0.5, 0, 0, 0, 0, 0, 0]
    whole = RAGGED.totals()
    assert whole.cell_N.tolist() == RAGGED.prompt_N.tolist()
    assert whole.count_C.tolist() == [3.0, 1.0, 0.0, 0.0]
    assert whole.sum_C.tolist() == [2.0, 0.5, 0.0, 0.0]


def test_other_values_of_unused_rollouts_are_cleared_and_the_rest_stays() -> None:
    moved = RAGGED.with_values(np.arange(1.0, 7.0))
    assert moved.value_N.tolist() == [1.0, 2.0, 3.0, 4.0, 0.0, 0.0]
    assert moved.round_N is RAGGED.round_N
    assert replace(RAGGED, used_N=None).with_values(np.arange(6.0)).value_N.tolist() == list(range(6))


def test_groups_of_a_batch_hold_correctness_of_the_valid_rollouts() -> None:
    batch = batch_of([[1.0, 0.0], [1.0]], verdict_N=np.array([0, 0, 1]))
    groups = Groups.of(batch, WIDE)
    assert groups.value_N.tolist() == [1.0, 0.0, 0.0], "an unverified rollout's value is no evidence"
    assert groups.used_N is not None
    assert groups.used_N.tolist() == [True, True, False]
    assert groups.prompts == 2
    assert groups.scale is WIDE
    for found, given in (
        (groups.prompt_N, batch.prompt_N),
        (groups.round_N, batch.round_N),
        (groups.length_N, batch.length_N),
        (groups.id_P, batch.prompt_id_P),
    ):
        assert found is given
    assert groups.name(1) == batch.prompt_id_P[1] == 71
    assert replace(groups, id_P=None).name(1) == 1
    assert Groups.of(batch_of([[1.0, 0.0]]), UNIT).used_N is None, "all valid: the fast path"


def test_the_first_round_is_each_prompts_own() -> None:
    """Prompt 1 came in round 1; of prompt 0, the first round's rollout with a verdict is in round 0."""
    batch = batch_of([[1.0, 0.0, 1.0], [1.0, 0.0], [1.0]], round_N=np.array([0, 1, 0, 1, 2, 2]))
    assert first_round_N(batch, np.ones(6, np.bool_)).tolist() == [True, False, True, True, False, True]
    used_N = np.array([False, True, False, True, True, False])
    assert first_round_N(batch, used_N).tolist() == [False, True, False, True, False, False]


# ---- the reward range ---------------------------------------------------------------------------------


def test_a_range_has_a_width_a_worst_variance_and_a_unit() -> None:
    assert (WIDE.width, WIDE.s2, WIDE.shaped_low) == (4.0, 4.0, -1.5)
    assert (UNIT.low, UNIT.high, UNIT.penalty, UNIT.s2) == (0.0, 1.0, 0.0, 0.25)
    assert WIDE.unit(np.array([-1.0, 0.0, 3.0])).tolist() == [0.0, 0.25, 1.0]
    assert WIDE.reward(np.array([0.0, 0.25, 1.0])).tolist() == [-1.0, 0.0, 3.0]


def test_a_prior_learns_from_verified_samples_dropped_and_untrained_ones_too() -> None:
    batch = batch_of(
        [[1.0, 0.0, 1.0], [1.0, 0.0]],
        verdict_N=np.array([Verdict.OK, Verdict.ERROR, Verdict.TIMEOUT, Verdict.OK, Verdict.OK]),
        kind_N=np.array([Kind.SAMPLE] * 4 + [Kind.GREEDY]),
        trainable_N=np.array([True, True, True, False, True]),
        dropped_P=np.array([True, False]),
    )
    assert verified_N(batch).tolist() == [True, False, False, True, False]


@pytest.mark.parametrize("value", [-1.01, 3.01, np.nan, np.inf, -np.inf])
def test_correctness_outside_the_range_is_refused_by_its_prompt(value: float) -> None:
    batch = batch_of([[-1.0, 3.0], [value]])
    message = rf"^prompt 71: correct {value} is outside \[-1.0, 3.0\]; fix .* with strategy.reward_range$"
    with pytest.raises(StrategyError, match=message):
        check_batch(batch, WIDE)
    check_batch(replace(batch, verdict_N=np.array([0, 0, 1])), WIDE)


def test_a_shaped_reward_may_be_anything_finite() -> None:
    batch = batch_of([[1.0], [0.0]])
    check_batch(replace(batch, reward_N=np.array([-7.0, 9.0])), UNIT)
    with pytest.raises(StrategyError, match=r"^prompt 71: reward nan is outside the finite numbers; fix"):
        check_batch(replace(batch, reward_N=np.array([0.0, np.nan])), UNIT)


def test_an_empty_group_is_refused_by_its_prompt_and_an_empty_batch_is_none() -> None:
    batch = batch_of([[1.0], [], [0.0]])
    with pytest.raises(StrategyError, match=r"^prompt 71: its group is empty; .* its first rollout$"):
        check_batch(batch, UNIT)
    check_batch(batch_of([]), UNIT)
    check_batch(batch_of([[1.0, 0.0], [1.0]]), UNIT)


def test_an_estimate_outside_the_range_is_refused_by_its_prompt() -> None:
    check_estimate(np.array([-1.0, 3.0]), np.array([70, 71]), WIDE)
    with pytest.raises(StrategyError, match=r"^prompt 71: prior 3.5 is outside \[-1.0, 3.0\]"):
        check_estimate(np.array([0.0, 3.5]), np.array([70, 71]), WIDE)


# ---- normalisers --------------------------------------------------------------------------------------

ALL = np.ones(4, np.bool_)
PAIRS = Groups(np.array([0, 0, 1, 1]), np.array([1.0, 0.0, 1.0, 1.0]), 2, scale=WIDE)
ADVANTAGE = np.array([0.5, -0.5, 1.0, 1.0])


def test_group_std_divides_by_the_groups_spread_or_else_by_the_worst_case() -> None:
    found = GroupStd(epsilon=0.1).rollouts(ADVANTAGE, PAIRS, ALL)
    first = 0.5 / (0.5**0.5 + 0.1)
    np.testing.assert_allclose(found, [first, -first, 0.5, 0.5])


def test_batch_std_divides_by_the_spread_of_what_is_scored() -> None:
    advantage_N, scored_N = np.array([1.0, 3.0, 5.0, 9.0]), np.array([True, True, True, False])
    found = BatchStd(epsilon=0.5).rollouts(advantage_N, PAIRS, scored_N)
    np.testing.assert_allclose(found[:3], [0.4, 1.2, 2.0])
    centred = BatchStd(epsilon=0.5, center=True).rollouts(advantage_N, PAIRS, scored_N)
    np.testing.assert_allclose(centred, [-0.8, 0.0, 0.8, 0.0])


def test_batch_std_divides_two_and_leaves_one_and_equal_ones_alone() -> None:
    advantage_N = np.array([1.0, 3.0, 7.0, 7.0])
    two = BatchStd(epsilon=0.5, center=True).rollouts(advantage_N, PAIRS, np.array([1, 1, 0, 0], bool))
    np.testing.assert_allclose(two, [-1 / (2**0.5 + 0.5), 1 / (2**0.5 + 0.5), 0.0, 0.0])
    one = BatchStd(center=True).rollouts(advantage_N, PAIRS, np.array([1, 0, 0, 0], bool))
    assert one.tolist() == advantage_N.tolist()
    equal = BatchStd(center=True).rollouts(advantage_N, PAIRS, np.array([0, 0, 1, 1], bool))
    assert equal.tolist() == [0.0] * 4
    assert BatchStd().rollouts(np.full(4, 7.0), PAIRS, ALL).tolist() == [7.0] * 4


def test_token_std_weighs_by_length_and_leaves_one_token_and_equal_ones_alone() -> None:
    """Tokens 1, 1, 1 and 5: mean 2, squares 12 over 3. The unscored row counts nothing and becomes 0."""
    groups = replace(PAIRS, length_N=np.array([3, 1, 4, 0]))
    scored_N = np.array([True, True, False, True])
    found = TokenStd(epsilon=0.5).rollouts(np.array([1.0, 5.0, 9.0, 2.0]), groups, scored_N)
    np.testing.assert_allclose(found, [-1 / 2.5, 3 / 2.5, 0.0, 0.0])
    alone = TokenStd().rollouts(np.array([1.0, 5.0, 9.0, 2.0]), groups, np.array([0, 1, 0, 1], bool))
    assert alone.tolist() == [1.0, 5.0, 9.0, 2.0]
    equal = TokenStd().rollouts(np.array([3.0, 3.0, 9.0, 3.0]), groups, scored_N)
    assert equal.tolist() == [0.0] * 4
    two = replace(PAIRS, length_N=np.array([1, 1, 0, 0]))
    halves = TokenStd(epsilon=1.0).rollouts(np.array([1.0, 3.0, 0.0, 0.0]), two, ALL)
    np.testing.assert_allclose(halves[:2], [-1 / (2**0.5 + 1), 1 / (2**0.5 + 1)])
    with pytest.raises(StrategyError, match=r"^normaliser: 'token_std' needs .* Groups a length_N$"):
        TokenStd().rollouts(ADVANTAGE, PAIRS, ALL)


def test_bernoulli_std_divides_by_the_spread_at_the_baseline() -> None:
    """Baselines .5, .5, 0 and 3 of [-1, 3]: units .375, .375, .25 and 1, where the worst case divides."""
    advantage_N, scored_N = np.array([0.5, -0.5, 1.0, -2.0]), np.array([True, True, True, True])
    found = BernoulliStd(epsilon=0.1).rollouts(advantage_N, PAIRS, scored_N)
    spread = 4 * (0.375 * 0.625) ** 0.5 + 0.1
    np.testing.assert_allclose(found, [0.5 / spread, -0.5 / spread, 1 / (4 * (3 / 16) ** 0.5 + 0.1), -1.0])
    beyond = BernoulliStd().rollouts(np.array([9.0, -9.0, 0.0, 0.0]), PAIRS, np.array([1, 1, 1, 0], bool))
    np.testing.assert_allclose(beyond[:2], [4.5, -4.5], err_msg="a baseline is kept within the range")


def test_per_token_each_token_is_a_rollout_of_its_prompt() -> None:
    """The group's spread is that of its tokens' rewards: 1, 1, 0 and, in the other group, none."""
    tokens = (np.array([0.5, 0.25]), np.array([-0.5]), np.zeros(0), np.array([1.0]))
    found = GroupStd(epsilon=0.1).tokens(tokens, replace(PAIRS, scale=UNIT), ALL)
    spread = (1 / 3) ** 0.5 + 0.1
    assert [len(part) for part in found] == [2, 1, 0, 1]
    np.testing.assert_allclose(np.concatenate(found), [0.5 / spread, 0.25 / spread, -0.5 / spread, 2.0])
    assert NoNormaliser().tokens(tokens, PAIRS, ALL) is tokens
    assert NoNormaliser().rollouts(ADVANTAGE, PAIRS, ALL) is ADVANTAGE


def test_per_token_a_batch_without_rollouts_has_no_advantage() -> None:
    nothing, nobody = np.zeros(0, np.int64), np.zeros(0, np.bool_)
    found = BatchStd().tokens((), Groups(nothing, np.zeros(0), 0), nobody)
    assert sum(len(part) for part in found) == 0


def test_per_token_unscored_rollouts_do_not_count() -> None:
    tokens = (np.array([1.0, 3.0]), np.array([9.0]), np.zeros(0), np.array([5.0]))
    scored_N = np.array([True, False, True, True])
    found = BatchStd(epsilon=0.5, center=True).tokens(tokens, PAIRS, scored_N)
    np.testing.assert_allclose(np.concatenate(found), [-0.8, 0.0, 0.0, 0.8])
    weighted = TokenStd(epsilon=0.5).tokens(tokens, replace(PAIRS, length_N=np.array([2, 1, 0, 1])), scored_N)
    np.testing.assert_allclose(np.concatenate(weighted), [-0.8, 0.0, 0.0, 0.8], err_msg="a token is one long")
    unused = replace(PAIRS, used_N=np.array([True, True, False, True]))
    assert len(GroupStd().tokens(tokens, unused, scored_N)) == 4


def test_tokens_of_a_uniform_group_are_divided_by_the_worst_case_of_the_reward_range() -> None:
    """On [-1, 1] the worst-case standard deviation is 1, on [0, 1] it is 1/2."""
    tokens = (np.array([0.5, 0.25]), np.array([0.25]))
    for scale, deviation in ((Scale(-1.0, 1.0), 1.0), (UNIT, 0.5)):
        groups = Groups(np.array([0, 0]), np.array([1.0, 1.0]), 1, scale=scale)
        found = GroupStd().tokens(tokens, groups, np.array([True, True]))
        assert np.concatenate(found).tolist() == [value / deviation for value in (0.5, 0.25, 0.25)]
