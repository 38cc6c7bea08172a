"""Every fusion by hand: one small ragged world, whose baselines can be worked out on paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from trainables.errors import StrategyError
from trainables.strategies.config import parse_strategy
from trainables.strategies.fusion import exact, tested
from trainables.strategies.fusion.base import Baseline, Fusion, masked
from trainables.strategies.fusion.beta import BetaCounts
from trainables.strategies.fusion.discounted import Discounted
from trainables.strategies.fusion.ebpo import Ebpo
from trainables.strategies.fusion.evidence import Evidence
from trainables.strategies.fusion.group_mean import GroupMean
from trainables.strategies.fusion.james_stein import JamesStein, weights
from trainables.strategies.fusion.leave_one_out import LeaveOneOut
from trainables.strategies.fusion.length_weighted import LengthWeighted
from trainables.strategies.fusion.prior_only import PriorOnly
from trainables.strategies.fusion.tested import Tested as Rule
from trainables.strategies.groups import Groups
from trainables.strategies.scale import Scale
from trainables.strategies.value_estimate import ValueEstimate
from trimtab.errors import SpecError

# Prompt 0 is right twice in three, prompt 1 never in two, prompt 2 is a lone right one; prompt 3 has no
# verdict, like one more rollout of prompt 0.
WORLD = Groups(
    prompt_N=np.array([0, 0, 0, 1, 1, 2, 0, 3]),
    value_N=np.array([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]),
    prompts=4,
    used_N=np.array([True] * 6 + [False] * 2),
    round_N=np.array([0, 0, 1, 0, 1, 0, 1, 0]),
    length_N=np.array([2, 3, 5, 1, 4, 6, 9, 9]),
    id_P=np.array([70, 71, 72, 73]),
)
USED, PAIRED = np.array([1, 1, 1, 1, 1, 1, 0, 0], bool), np.array([1, 1, 1, 1, 1, 0, 0, 0], bool)


def means(*value: float) -> ValueEstimate:
    return ValueEstimate(mean_P=np.array(value))


def expect(found: Baseline, mean: list[float], scored_N: np.ndarray, w: list[float]) -> None:
    np.testing.assert_allclose(found.mean_N, [*mean, *[0.0] * (8 - len(mean))], atol=1e-12)
    assert found.scored_N.tolist() == scored_N.tolist()
    np.testing.assert_allclose(found.w_P, w, atol=1e-12)


def test_group_mean_scores_no_rollout_that_is_alone() -> None:
    expect(GroupMean().fuse(WORLD, None), [2 / 3] * 3, PAIRED, [1.0] * 4)


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    expect(LeaveOneOut().fuse(WORLD, None), [0.5, 1.0, 0.5], PAIRED, [1.0] * 4)


def test_a_long_response_weighs_more() -> None:
    """Prompt 0: tokens 2 and 5 of 10 are right; without the first 5 of 8, then 7 of 7 and 2 of 5."""
    expect(LengthWeighted().fuse(WORLD, None), [0.7] * 3, PAIRED, [1.0] * 4)
    expect(LengthWeighted(leave_one_out=True).fuse(WORLD, None), [5 / 8, 1.0, 2 / 5], PAIRED, [1.0] * 4)


def test_groups_without_a_token_have_no_length_weighted_mean() -> None:
    groups = Groups(np.array([0, 0, 1, 1]), np.ones(4), 2, length_N=np.array([0, 0, 0, 1]))
    assert LengthWeighted().fuse(groups, None).scored_N.tolist() == [False, False, True, True]
    assert LengthWeighted().fuse(groups, None).mean_N.tolist() == [0.0, 0.0, 1.0, 1.0]
    left_out = LengthWeighted(leave_one_out=True).fuse(groups, None)
    assert left_out.scored_N.tolist() == [False, False, True, False], "the other one has no token"
    with pytest.raises(StrategyError, match=r"^fusion: 'length_weighted' .* give Groups a length_N$"):
        LengthWeighted().fuse(Groups(np.zeros(2, np.int64), np.ones(2), 1), None)


def test_prior_only_is_the_prior_and_scores_no_rollout_that_it_is_silent_about() -> None:
    expect(
        PriorOnly().fuse(WORLD, means(0.5, 0.25, 0.75, 0.5)), [0.5] * 3 + [0.25] * 2 + [0.75], USED, [0] * 4
    )
    silent = PriorOnly().fuse(WORLD, means(0.5, np.nan, 0.75, 0.5))
    assert silent.mean_N.tolist() == [0.5, 0.5, 0.5, 0.0, 0.0, 0.75, 0.0, 0.0]
    assert silent.scored_N.tolist() == [True, True, True, False, False, True, False, False]


def test_prior_only_reads_the_others_trajectories_only_if_asked() -> None:
    own = ValueEstimate(mean_N=np.array([0.1, 0.2, 0.6, 0.3, 0.5, 0.9, 0.0, 0.0]))
    expect(PriorOnly().fuse(WORLD, own), [0.1, 0.2, 0.6, 0.3, 0.5, 0.9], USED, [0.0] * 4)
    left_out = PriorOnly(leave_one_out=True)
    expect(left_out.fuse(WORLD, own), [0.4, 0.35, 0.15, 0.5, 0.3], PAIRED, [0.0] * 4)
    assert left_out.needs_pair
    assert left_out.leaves_out_states
    assert not PriorOnly().needs_pair
    assert not PriorOnly().leaves_out_states


def test_beta_counts_the_prior_as_rollouts() -> None:
    """n0 = 2: (2 V + s) / (2 + k)."""
    prior, w = means(0.5, 0.25, 0.75, 0.5), [3 / 5, 2 / 4, 1 / 3, 0.0]
    expect(BetaCounts(n0=2.0).fuse(WORLD, prior), [3 / 5] * 3 + [0.5 / 4] * 2 + [2.5 / 3], USED, w)
    left_out = BetaCounts(n0=2.0, leave_one_out=True).fuse(WORLD, prior)
    expect(left_out, [2 / 4, 3 / 4, 2 / 4, 0.5 / 3, 0.5 / 3, 1.5 / 2], USED, w)
    own = ValueEstimate(mean_N=np.array([0.1, 0.2, 0.6, 0.3, 0.5, 0.9, 0.0, 0.0]))
    first = BetaCounts(n0=2.0, leave_one_out=True).fuse(WORLD, own).mean_N[0]
    assert first == pytest.approx((2 * 0.4 + 1.0) / 4), "the prior's own states are left out too"


def test_discounted_counts_the_priors_evidence() -> None:
    """keep = 1/2. Evidence: .25 / .05 - 1 = 4, .1875 / .0625 - 1 = 2, and none where sd is too wide."""
    sd_P = np.array([0.05**0.5, 0.25, 1.0, 1.0])
    prior = ValueEstimate(mean_P=np.array([0.5, 0.25, 0.75, 0.5]), sd_P=sd_P)
    found = Discounted(keep=0.5).fuse(WORLD, prior)
    expect(found, [3 / 5] * 3 + [0.25 / 3] * 2 + [1.0], USED, [3 / 5, 2 / 3, 1.0, 0.0])
    certain = ValueEstimate(mean_P=prior.mean_P, sd_P=np.zeros(4))
    np.testing.assert_allclose(Discounted().fuse(WORLD, certain).mean_N[[0, 3, 5]], [0.5, 0.25, 0.75])


def test_ebpo_leans_by_the_noise_of_the_group_mean() -> None:
    """tau2 = .04 beside .12 / 3, .01 beside .05 / 2; two variances of 0 leave the prior's mean."""
    prior = ValueEstimate(
        mean_P=np.array([0.5, 0.25, 0.75, 0.5]),
        sd_P=np.array([0.2, 0.1, 0.0, 0.3]),
        within_P=np.array([0.12, 0.05, 0.0, 0.09]),
    )
    expect(
        Ebpo().fuse(WORLD, prior),
        [0.5 + 1 / 12] * 3 + [0.25 * 5 / 7] * 2 + [0.75],
        USED,
        [1 / 2, 2 / 7, 0.0, 1 / 2],
    )


def test_evidence_counts_the_others_beside_the_priors_rollouts() -> None:
    """n = 2: (2 V + s) / (2 + 2); n = 0: the other rollout alone; a lone one: the prior's mean."""
    prior = ValueEstimate(mean_P=np.array([0.5, 0.25, 0.75, 0.5]), evidence_P=np.array([2.0, 0.0, 0.0, 1.0]))
    expect(Evidence().fuse(WORLD, prior), [0.5, 0.75, 0.5, 0.0, 0.0, 0.75], USED, [1 / 2, 1.0, 0.0, 0.0])
    counted = ValueEstimate(mean_P=prior.mean_P, evidence_P=np.array([2.0, 3.0, 0.5, 1.0]))
    found = Evidence().fuse(replace(WORLD, value_N=1.0 - WORLD.value_N), counted)
    np.testing.assert_allclose(found.mean_N[3:6], [1.75 / 4, 1.75 / 4, 0.75])
    np.testing.assert_allclose(found.w_P, [1 / 2, 1 / 4, 0.0, 0.0])


def test_evidence_leaves_a_rollouts_own_trajectory_out_too() -> None:
    """Values of the others: .4, .35 and .15, as two rollouts beside the two others."""
    own = ValueEstimate(
        mean_N=np.array([0.1, 0.2, 0.6, 0.3, 0.5, 0.9, 0.0, 0.0]), evidence_P=np.array([2.0, 0.0, 0.0, 1.0])
    )
    np.testing.assert_allclose(Evidence().fuse(WORLD, own).mean_N[:3], [1.8 / 4, 2.7 / 4, 1.3 / 4])


def test_james_stein_takes_each_prompts_weight_from_the_other_prompts() -> None:
    rng = np.random.default_rng(0)
    count_P = [4, 2, 3, 1, 5]  # the fourth is alone and no evidence
    value_P = [rng.random(count) for count in count_P]
    groups = Groups(np.repeat(np.arange(5), count_P), np.concatenate(value_P), 5)
    pairs, lam = [p for p in range(5) if count_P[p] > 1], []
    for prompt in range(5):
        rest = [value_P[p] for p in pairs if p != prompt]
        v = np.mean([value.var(ddof=1) / len(value) for value in rest])
        lam.append(3 / 4 * v / (v + np.var([value.mean() for value in rest])))
    np.testing.assert_allclose(weights(groups), lam)
    pool = means(0.1, 0.2, 0.3, 0.4, 0.5)
    found = JamesStein().fuse(groups, pool)
    np.testing.assert_allclose(found.w_P, 1.0 - np.array(lam))
    assert found.scored_N.tolist() == [p != 3 for p in groups.prompt_N]
    first = value_P[0][1:].mean()
    assert found.mean_N[0] == pytest.approx(first + lam[0] * (0.1 - first))
    assert found.mean_N[9] == 0.0


def test_james_stein_needs_three_prompts_and_some_noise() -> None:
    pair = Groups(np.array([0, 0, 1, 1, 2]), np.array([1.0, 0.0, 1.0, 0.0, 1.0]), 3)
    assert weights(pair).tolist() == [0.0] * 3
    np.testing.assert_allclose(JamesStein().fuse(pair, means(np.nan, 0.5, 0.5)).mean_N, [0, 1, 0, 1, 0])
    three = Groups(np.array([0, 0, 1, 1, 2, 2]), np.array([1.0, 0.0] * 3), 3)
    np.testing.assert_allclose(weights(three), [2 / 3] * 3, err_msg="equal means: all spread is noise")
    settled = Groups(np.array([0, 0, 1, 1, 2, 2]), np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0]), 3)
    assert weights(settled).tolist() == [0.0] * 3


# ---- tested shrinkage ---------------------------------------------------------------------------------

REFUTED = means(0.0, 0.75, 0.25, 0.5)


def test_the_papers_rule_by_hand() -> None:
    """w = 1 - v / d^2: v = 1/12, d = 2/3; v = 1/8, d = -3/4; v = 1/4, d = 3/4."""
    w = [13 / 16, 7 / 9, 5 / 9, 0.0]
    expect(Rule().fuse(WORLD, REFUTED), [13 / 24] * 3 + [1 / 6] * 2 + [2 / 3], USED, w)
    accepted = means(0.5, 0.25, 0.75, 0.5)
    expect(Rule().fuse(WORLD, accepted), [0.5] * 3 + [0.25] * 2 + [0.75], USED, [0.0] * 4)


@pytest.mark.parametrize("rollouts", [1, 3, 1 << 15])
def test_the_papers_rule_without_the_scored_rollout(rollouts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others: mean 1/2, 1 and 1/2 of two, then 0 of one, then none. It is worked out slice by slice."""
    monkeypatch.setattr(tested, "SLICE", rollouts)
    want = [0.25, 0.875, 0.25, 1 / 3, 1 / 3, 0.25]
    w = [(0.5 + 0.875 + 0.5) / 3, 5 / 9, 0.0, 0.0]
    found = Rule(leave_one_out=True).fuse(WORLD, REFUTED)
    expect(found, want, USED, w)
    per_rollout = ValueEstimate(mean_N=np.array([0.0, 0, 0, 0.75, 0.75, 0.25, 0, 0]), excludes_own=True)
    expect(Rule(leave_one_out=True).fuse(WORLD, per_rollout), want, USED, w)


def test_the_per_round_rule_reads_earlier_rounds_and_the_own_one() -> None:
    """Row 0 has row 1 beside it, row 1 has row 0, and row 2 both; row 4 has row 3, and row 3 none."""
    fusion = Rule(leave_one_out=True, per_round=True)
    expect(
        fusion.fuse(WORLD, REFUTED),
        [0.0, 0.75, 0.25, 0.75, 1 / 3, 0.25],
        USED,
        [(0.75 + 0.5) / 3, 5 / 18, 0.0, 0.0],
    )
    own = ValueEstimate(mean_N=np.array([0.2, 0.8, 0.5, 0.4, 0.6, 0.9, 0.0, 0.0]))
    found = fusion.fuse(WORLD, own)
    # Priors of the same rollouts: .8, .2, .5, none, .4 and none.
    np.testing.assert_allclose(found.mean_N[:6], [0.3125, 0.6875, 0.5, 0.0, 0.4, 0.0])
    assert found.scored_N.tolist() == [True, True, True, False, True, False, False, False]
    assert fusion.others(WORLD)[0].tolist() == [1.0, 1.0, 2.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert Rule(leave_one_out=True).others(WORLD)[0].tolist() == [2.0, 2.0, 2.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def test_a_rollout_that_the_prior_is_silent_about_weighs_nothing() -> None:
    found = Rule(leave_one_out=True).fuse(WORLD, means(0.0, np.nan, 0.25, 0.5))
    assert found.scored_N.tolist() == [True, True, True, False, False, True, False, False]
    assert found.w_P is not None
    np.testing.assert_allclose(found.w_P, [(0.5 + 0.875 + 0.5) / 3, 0.0, 0.0, 0.0])
    assert found.mean_N[3] == 0.0


def shrunk(count: float, total: float, prior: float, alpha: float, scale: Scale) -> tuple[float, float]:
    """The exact test and the weight of d^2 beside v, written out: baseline and w."""
    if count == 0:
        return prior, 0.0
    right = round((total - count * scale.low) / scale.width)
    p_value = binomtest(right, round(count), (prior - scale.low) / scale.width).pvalue
    d, v = total / count - prior, scale.s2 / count
    delta2 = 0.0 if p_value >= alpha else max(0.0, d * d - v)
    return prior + delta2 / (delta2 + v) * d, delta2 / (delta2 + v)


def drawn(scale: Scale) -> tuple[Groups, np.ndarray]:
    """Six ragged groups of two rounds, some of them certain, and priors from far off to right."""
    rng = np.random.default_rng(5)
    prompt_N = np.concatenate([np.repeat(np.arange(6), [4, 8, 6, 1, 5, 7]), np.repeat(np.arange(6), 3)])
    right_N = rng.random(len(prompt_N)) < np.array([0.5, 0.9, 0.0, 0.5, 1.0, 0.3])[prompt_N]
    used_N = rng.random(len(prompt_N)) < 0.9
    value_N = np.where(used_N, np.where(right_N, scale.high, scale.low), 0.0)
    round_N = np.concatenate([np.zeros(31, np.int64), np.ones(18, np.int64)])
    groups = Groups(prompt_N, value_N, 6, used_N, round_N, scale=scale)
    return groups, scale.reward(np.array([0.5, 0.2, 0.9, 0.5, 0.3, 0.35]))


@pytest.mark.parametrize("scale", [Scale(), Scale(-1.0, 1.0)])
@pytest.mark.parametrize("alpha", [0.05, 0.4])
def test_the_exact_rule_of_the_whole_group_is_scipys_test(scale: Scale, alpha: float) -> None:
    groups, prior_P = drawn(scale)
    found = Rule(test="exact", alpha=alpha).fuse(groups, ValueEstimate(mean_P=prior_P))
    want = [
        shrunk(groups.count_P[p], groups.sum_P[p], prior_P[p], alpha, scale) for p in range(groups.prompts)
    ]
    assert found.w_P is not None
    np.testing.assert_allclose(found.w_P, [w for _, w in want], atol=1e-12)
    for row in np.flatnonzero(groups.mask_N):
        assert found.mean_N[row] == pytest.approx(want[groups.prompt_N[row]][0])
    assert 0 < np.count_nonzero(found.w_P) < 6


@pytest.mark.parametrize("scale", [Scale(), Scale(-1.0, 1.0)])
@pytest.mark.parametrize("per_round", [False, True])
@pytest.mark.parametrize("of", ["prompts", "rollouts"])
def test_the_exact_rule_without_the_scored_rollout_is_scipys_test(
    scale: Scale, per_round: bool, of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "CELLS", 20)  # a few tests per pass
    groups, prior_P = drawn(scale)
    prior_N = prior_P[groups.prompt_N]
    estimate = ValueEstimate(mean_P=prior_P)
    if of == "rollouts":
        prior_N = scale.reward(np.random.default_rng(1).choice([0.1, 0.5, 0.8], len(prior_N)))
        prior_N[0] = np.nan
        estimate = ValueEstimate(mean_N=prior_N, excludes_own=True)
    fusion = Rule(leave_one_out=True, per_round=per_round, test="exact", alpha=0.2)
    found = fusion.fuse(groups, estimate)
    count_N, sum_N = groups.others(per_round)
    want_N = np.zeros(len(prior_N))
    for row in np.flatnonzero(groups.mask_N & np.isfinite(prior_N)):
        mean, want_N[row] = shrunk(count_N[row], sum_N[row], prior_N[row], 0.2, scale)
        assert found.mean_N[row] == pytest.approx(mean)
    assert found.w_P is not None
    np.testing.assert_allclose(found.w_P, groups.with_values(want_N).mean_P, atol=1e-12)
    assert found.scored_N.tolist() == (groups.mask_N & np.isfinite(prior_N)).tolist()


def test_a_prior_at_the_level_itself_survives() -> None:
    """Two of two under 1/2 have the p value 1/2."""
    groups = Groups(np.zeros(2, np.int64), np.ones(2), 1)
    case = (np.array([2.0]), np.array([2.0]), np.array([0.5]))
    assert exact.accepts(*case, 0.5, groups).tolist() == [True]
    assert exact.accepts(*case, 0.5 + 1e-9, groups).tolist() == [False]


def test_the_exact_rule_refuses_a_reward_between_the_ends_by_its_prompt() -> None:
    value_N = np.array([1.0, 0.0, 1.0, 0.0, 0.5, 0.25, 0.5, 0.5])
    groups = Groups(WORLD.prompt_N, value_N, 4, WORLD.used_N, id_P=WORLD.id_P)
    message = (
        r"^prompt 71: correct 0.5 is neither 0.0 nor 1.0, but fusion.test: exact .* fusion.test to chi2$"
    )
    for fusion in (Rule(test="exact"), Rule(test="exact", leave_one_out=True)):
        with pytest.raises(StrategyError, match=message):
            fusion.fuse(groups, means(0.5, 0.5, 0.5, 0.5))
    unused = Groups(WORLD.prompt_N, np.where(WORLD.mask_N, WORLD.value_N, 0.5), 4, WORLD.used_N)
    assert Rule(test="exact").fuse(unused, REFUTED).scored_N.tolist() == USED.tolist()


# ---- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fusion"),
    [
        (member.type, member)
        for member in (BetaCounts(), Discounted(), Ebpo(), Evidence(), JamesStein(), PriorOnly(), Rule())
    ],
)
def test_a_fusion_that_needs_a_prior_says_so(name: str, fusion: Fusion) -> None:
    message = f"^strategy.prior: none, but fusion '{name}' needs one; set strategy.prior$"
    with pytest.raises(StrategyError, match=message):
        fusion.fuse(WORLD, None)


@pytest.mark.parametrize(
    ("fusion", "message"),
    [
        (Discounted(), r"^strategy.prior: gives no sd_P, which .* by; set prior to tracker$"),
        (Ebpo(), r"^strategy.prior: gives no sd_P and within_P, .* 'ebpo' weighs by; set prior to global$"),
        (Evidence(), r"^strategy.prior: gives no evidence_P, .* by; set prior to kernel$"),
    ],
)
def test_a_prior_of_ones_own_that_gives_too_little_is_told_what_is_missing(
    fusion: Fusion, message: str
) -> None:
    with pytest.raises(StrategyError, match=message):
        fusion.fuse(WORLD, means(0.5, 0.5, 0.5, 0.5))


def test_ebpo_needs_both_spreads() -> None:
    mean_P = np.full(4, 0.5)
    for half in (ValueEstimate(mean_P=mean_P, sd_P=mean_P), ValueEstimate(mean_P=mean_P, within_P=mean_P)):
        with pytest.raises(StrategyError, match="gives no sd_P and within_P"):
            Ebpo().fuse(WORLD, half)


@pytest.mark.parametrize(
    ("fusion", "suits", "advice"),
    [
        ("discounted", ("tracker", "global", "strata"), "set prior to tracker, global, strata or context"),
        ("ebpo", ("global", "strata"), "set prior to global or strata"),
        ("evidence", ("kernel",), "set prior to kernel, or fusion to beta"),
        ("james_stein", ("pool",), "set prior to pool"),
    ],
)
def test_a_fusion_takes_the_priors_it_can_weigh_and_advises_against_others(
    fusion: str, suits: tuple[str, ...], advice: str
) -> None:
    budget = {"type": "fixed", "group_size": 4}
    for prior in suits:
        assert parse_strategy({"prior": prior, "fusion": fusion, "budget": budget}).fusion.type == fusion
    refused = ["greedy", "batchwise", "kernel", "pool"]
    for prior in [name for name in refused if name not in suits]:
        with pytest.raises(SpecError, match=rf"prior: '{prior}' under fusion '{fusion}'.*{advice}$"):
            parse_strategy({"prior": prior, "fusion": fusion, "budget": budget})


def test_the_per_round_rule_without_leave_one_out_is_refused() -> None:
    with pytest.raises(ValueError, match=r"per_round: true needs leave_one_out: true; set both"):
        Rule(per_round=True)


def test_masked_rows_have_no_baseline() -> None:
    found = masked(np.array([0.5, np.nan, np.inf, 0.25]), np.array([True, True, True, False]))
    assert found.mean_N.tolist() == [0.5, 0.0, 0.0, 0.0]
    assert found.scored_N.tolist() == [True, False, False, False]
    assert found.w_P is None
    assert found.notes == {}
    assert found.tokens is None


def test_a_fusion_that_remembers_nothing_has_no_state_and_leaves_nothing_out() -> None:
    fusion = GroupMean()
    assert fusion.state_dict() == {}
    assert not fusion.leaves_out_states
    assert LeaveOneOut().leaves_out_states
    assert [part.tolist() for part in fusion.others(WORLD)] == [part.tolist() for part in WORLD.others()]
