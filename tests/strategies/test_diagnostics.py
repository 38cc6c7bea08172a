"""Diagnostics and value estimates by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.strategies.made import batch_of, per_prompt
from trainables.strategies.diagnostics import describe, forecast
from trainables.strategies.fusion.base import Baseline
from trainables.strategies.groups import Groups
from trainables.strategies.scale import UNIT
from trainables.strategies.value_estimate import ValueEstimate


def noted(estimate: ValueEstimate | None, w_P: list[float] | None, mean_N: list[float]) -> dict[str, float]:
    """Prompt 70: 1, 0, 1, 1; 71: 0, 0 and dropped; 72: a lone 1; 73: one without a verdict."""
    batch = batch_of(
        [[1.0, 0.0, 1.0, 1.0], [0.0, 0.0], [1.0], [0.0]],
        verdict_N=np.array([0] * 7 + [1]),
        dropped_P=np.array([False, True, False, False]),
    )
    batch = replace(batch, reward_N=batch.correct_N * 2.0)
    groups = Groups.of(batch, UNIT)
    scored_N = np.array([True] * 4 + [False] * 2 + [True, False])
    baseline = Baseline(np.array(mean_N), scored_N, None if w_P is None else np.array(w_P))
    advantage_N = np.where(scored_N, groups.value_N - np.array(mean_N), 0.0)
    return describe(batch, groups, estimate, baseline, advantage_N, 0.375)


def test_diagnostics_of_a_group_baseline() -> None:
    """Baseline .75 of prompt 70 and .5 of 72. Rewards 2, 0, 2, 2, 2; sampling noise .25 / 4 at w = 1."""
    found = noted(None, [1.0, 1.0, 1.0, 1.0], [0.75] * 4 + [0.0] * 2 + [0.5, 0.0])
    advantage = [0.25, -0.75, 0.25, 0.25, 0.5]
    assert found == pytest.approx(
        {
            "prompts": 4.0,
            "rollouts_per_prompt": 2.0,
            "scored_rollouts": 5 / 8,
            "invalid_rollouts": 1 / 8,
            "dropped_prompts": 1 / 4,
            "uniform_groups": 2 / 3,
            "shortfall": 0.375,
            "baseline_mean": 3.5 / 5,
            "reward_mean": 4 / 5,
            "adv_var_over_reward_var": np.var(advantage) / 0.64,
            "baseline_mse": 0.0625,
            "w_mean": 1.0,
        }
    )


def test_diagnostics_with_a_prior() -> None:
    """Prompt 70 believes .25, accepted; 72 believes .5, refuted; 71 is dropped and 73 has no verdict."""
    mean_N = [0.25] * 4 + [0.0] * 2 + [0.75, 0.0]
    found = noted(per_prompt(0.25, 0.9, 0.5, 0.9), [0.0, 0.3, 0.5, 0.3], mean_N)
    assert found["prior_mean"] == pytest.approx(0.375)
    assert found["prior_rmse"] == pytest.approx(((0.5**2 + 0.5**2) / 2) ** 0.5)
    assert found["prior_error"] == pytest.approx((0.5**2 - 0.0625) ** 0.5), "of the pair alone"
    assert found["w_mean"] == pytest.approx(0.25)
    assert found["prior_accept_rate"] == 0.5
    assert found["baseline_mse"] == pytest.approx(0.5**2 - 0.0625)
    assert found["prior_mae"] == pytest.approx((3 * 0.75 + 0.25 + 0.5) / 5)
    want = np.corrcoef([0.25] * 4 + [0.5], [1.0, 0.0, 1.0, 1.0, 1.0])[0, 1]
    assert found["prior_pearson"] == pytest.approx(want)


def test_a_fusion_without_weights_used_the_prior_alone_or_else_the_group_alone() -> None:
    mean_N = [0.25] * 4 + [0.0] * 2 + [0.75, 0.0]
    with_prior = noted(per_prompt(0.25, 0.9, 0.5, 0.9), None, mean_N)
    assert with_prior["baseline_mse"] == pytest.approx(0.5**2 - 0.0625)
    assert not {"w_mean", "prior_accept_rate"} & set(with_prior)
    assert noted(None, None, mean_N)["baseline_mse"] == pytest.approx(0.5**2 + 0.0625)


def test_a_prior_better_than_the_groups_noise_has_no_error() -> None:
    assert noted(per_prompt(0.75, 0.9, 1.0, 0.9), None, [0.75] * 8)["prior_error"] == 0.0


def test_a_prior_that_is_silent_is_left_out_of_its_own_numbers() -> None:
    found = noted(per_prompt(np.nan, 0.9, 0.5, 0.9), None, [0.75] * 8)
    assert (found["prior_mean"], found["prior_rmse"]) == (0.5, 0.5)
    assert "prior_error" not in found, "the lone prompt has no variance to take off"
    assert not {"prior_mean", "prior_mae"} & set(noted(per_prompt(*[np.nan] * 4), None, [0.75] * 8))


def test_an_untrained_batch_has_counts_only() -> None:
    batch = batch_of([[1.0, 0.0]], verdict_N=np.array([1, 2]))
    groups = Groups.of(batch, UNIT)
    baseline = Baseline(np.zeros(2), np.zeros(2, np.bool_), np.ones(1))
    found = describe(batch, groups, per_prompt(0.5), baseline, np.zeros(2), 0.0)
    assert found == {
        "prompts": 1.0,
        "rollouts_per_prompt": 2.0,
        "scored_rollouts": 0.0,
        "invalid_rollouts": 1.0,
        "dropped_prompts": 0.0,
        "uniform_groups": 0.0,
        "shortfall": 0.0,
    }
    empty = batch_of([])
    nothing = Baseline(np.zeros(0), np.zeros(0, np.bool_))
    counts = describe(empty, Groups.of(empty, UNIT), None, nothing, np.zeros(0), 0.0)
    assert set(counts.values()) == {0.0}


def test_rewards_that_do_not_vary_have_no_ratio_of_variances() -> None:
    batch = batch_of([[1.0, 1.0]])
    groups, scored_N = Groups.of(batch, UNIT), np.ones(2, np.bool_)
    found = describe(batch, groups, None, Baseline(np.ones(2), scored_N), np.zeros(2), 0.0)
    assert "adv_var_over_reward_var" not in found
    assert found["baseline_mean"] == 1.0


def test_a_forecast_is_judged_on_used_rollouts_with_a_number() -> None:
    groups = Groups(np.array([0, 0, 1, 1, 1]), np.array([1.0, 0.0, 1.0, 0.0, 0.0]), 2)
    groups = replace(groups, used_N=np.array([True, True, True, True, False]))
    found = forecast(np.array([0.9, 0.2, np.nan, 0.4, 5.0]), groups, "mine")
    assert found["mine_mae"] == pytest.approx((0.1 + 0.2 + 0.4) / 3)
    assert found["mine_pearson"] == pytest.approx(np.corrcoef([0.9, 0.2, 0.4], [1.0, 0.0, 0.0])[0, 1])
    assert set(forecast(np.full(5, 0.5), groups)) == {"prior_mae"}, "a constant has no correlation"
    alike = replace(groups, value_N=np.ones(5))
    assert set(forecast(np.array([0.9, 0.2, 0.1, 0.4, 5.0]), alike)) == {"prior_mae"}
    assert forecast(np.full(5, np.nan), groups) == {}


# ---- value estimates ----------------------------------------------------------------------------------

TWO = Groups(np.array([0, 0, 0, 1, 1]), np.zeros(5), 3, round_N=np.array([0, 0, 1, 0, 0]))
OWN = np.array([0.1, 0.3, 0.8, 0.5, 0.7])


def test_an_estimate_per_prompt_is_the_same_for_all_its_rollouts() -> None:
    estimate = per_prompt(0.2, 0.4, 0.6)
    assert estimate.for_prompts(TWO).tolist() == [0.2, 0.4, 0.6]
    assert estimate.for_rollouts(TWO, leave_one_out=True).tolist() == [0.2, 0.2, 0.2, 0.4, 0.4]


def test_an_estimate_per_rollout_is_its_own_or_that_of_the_others() -> None:
    estimate = ValueEstimate(mean_N=OWN)
    np.testing.assert_allclose(estimate.for_prompts(TWO), [0.4, 0.6, 0.0])
    assert estimate.for_rollouts(TWO) is OWN
    np.testing.assert_allclose(estimate.for_rollouts(TWO, True), [0.55, 0.45, 0.2, 0.7, 0.5])
    np.testing.assert_allclose(estimate.for_rollouts(TWO, True, True), [0.3, 0.1, 0.2, 0.7, 0.5])
    read_already = replace(estimate, excludes_own=True)
    assert read_already.for_rollouts(TWO, leave_one_out=True) is OWN


def test_rollouts_that_could_not_be_read_speak_for_nobody() -> None:
    estimate = ValueEstimate(mean_N=OWN, silent_N=np.array([True, False, False, True, True]))
    np.testing.assert_allclose(estimate.for_prompts(TWO), [0.55, np.nan, 0.0])
    left_out = estimate.for_rollouts(TWO, leave_one_out=True)
    np.testing.assert_allclose(left_out[1:3], [0.8, 0.3])
    assert np.isnan(left_out[3:]).all()
    alone = Groups(np.array([0]), np.zeros(1), 1)
    assert np.isnan(ValueEstimate(mean_N=np.ones(1)).for_rollouts(alone, leave_one_out=True)).all()


def test_an_estimate_per_token_speaks_by_its_first_token() -> None:
    tokens = (*(np.array([value, 9.0]) for value in OWN[:4]), np.zeros(0))
    estimate = ValueEstimate(tokens=tokens)
    np.testing.assert_allclose(estimate.for_rollouts(TWO), [*OWN[:4], np.nan])
    assert ValueEstimate(mean_N=OWN, tokens=tokens).for_rollouts(TWO) is OWN
    with pytest.raises(ValueError, match=r"^a ValueEstimate gives mean_P, mean_N or tokens$"):
        ValueEstimate().for_prompts(TWO)
