"""Two results of V0.5's analysis that need more rollouts than the rest of it (see test_numbers.py)."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.strategies_sim import A, B, KnownPrior, coin, play, wrong_prior
from trainables.strategies.budget.sequential import Sequential
from trainables.strategies.composed import Composed
from trainables.strategies.fusion import tested
from trainables.strategies.groups import Groups
from trainables.strategies.value_estimate import ValueEstimate

PROMPTS = 200_000

PRIOR_ERRORS = (
    # sd, bias, mean squared error of the prior in +-1 units
    (0.0, 0.0, 0.0),
    (0.05, 0.0, 0.010),
    (0.1, 0.0, 0.037),
    (0.2, 0.0, 0.129),
    (0.3, 0.0, 0.251),
    (0.1, 0.2, 0.192),
    (0.1, 0.4, 0.606),
)


@pytest.mark.parametrize(("sd", "bias", "expected"), PRIOR_ERRORS)
def test_error_of_the_prior_alone(sd: float, bias: float, expected: float) -> None:
    """4,000,000 prompts: at the table's 200,000 the sampling error of the last row is half the tolerance."""
    rng = np.random.default_rng(3)
    rate_C = rng.beta(A, B, 20 * PROMPTS)
    found = 4.0 * np.mean((wrong_prior(rate_C, sd, bias, rng) - rate_C) ** 2)
    assert found == pytest.approx(expected, abs=0.0015)


def scales(fusion: tested.Tested) -> tuple[float, float]:
    """Gradient scale under sequential stopping, prior of sd .1: (prompts averaged, rollouts summed).

    The score function of a coin flip is proportional to r - mu.
    """
    rng = np.random.default_rng(1)
    rate_P = rng.beta(A, B, PROMPTS)
    prior_P = wrong_prior(rate_P, 0.1, 0.0, rng)
    strategy = Composed(prior=KnownPrior(prior_P), fusion=fusion, budget=Sequential(reserve=0.75))
    # Room for every prompt to reach 16, so that only the test stops it.
    batch, _ = play(strategy, coin(rate_P), PROMPTS, 16 * PROMPTS, rng, rounds=20)
    np.testing.assert_array_equal(batch.prompt_id_P, np.arange(PROMPTS))
    groups = Groups(batch.prompt_N, batch.correct_N, PROMPTS, round_N=batch.round_N)
    baseline_N = fusion.fuse(groups, ValueEstimate(mean_P=prior_P)).mean_N
    product_N = (batch.correct_N - baseline_N) * (batch.correct_N - rate_P[batch.prompt_N])
    variance_P = rate_P * (1.0 - rate_P)
    averaged = (groups.total(product_N) / groups.count_P).mean() / variance_P.mean()
    return float(averaged), float(product_N.sum() / (groups.count_P * variance_P).sum())


def test_sequential_stopping_stretches_the_gradient_as_derived_and_per_round_fusion_repairs_it() -> None:
    averaged, summed = scales(tested.Tested(leave_one_out=True))
    assert averaged == pytest.approx(1.023, abs=0.004)
    assert summed == pytest.approx(1.034, abs=0.004)
    _, repaired = scales(tested.Tested(leave_one_out=True, per_round=True))
    assert repaired == pytest.approx(1.0, abs=0.003)
