"""The published and derived numbers of V0.5, reproduced by playing the strategies themselves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest, chi2

from benchmarks.strategies import measure_bias
from benchmarks.strategies_sim import A, B, KnownPrior, coin, play, wrong_prior
from trainables.strategies.batch import Batch
from trainables.strategies.budget.sequential import Sequential, gain
from trainables.strategies.composed import Composed
from trainables.strategies.config import parse_strategy
from trainables.strategies.fusion.exact import pvalues
from trainables.strategies.fusion.tested import PAPER_ALPHA, excess, shrink_weight, threshold
from trainables.strategies.fusion.tested import Tested as Rule
from trainables.strategies.groups import Groups
from trainables.strategies.value_estimate import ValueEstimate

PROMPTS = 100_000
SIGNED = 4.0
"""Squared rewards of +-1 over squared rewards of 0/1: the table is in +-1 units."""

# sd, bias: fused k=4, fused + sequential, mean k, share k > 4
TABLE = [
    (0.00, 0.0, 0.043, 0.006, 4.5, 0.17),
    (0.05, 0.0, 0.050, 0.014, 4.6, 0.18),
    (0.10, 0.0, 0.068, 0.035, 4.8, 0.20),
    (0.20, 0.0, 0.110, 0.084, 5.6, 0.28),
    (0.30, 0.0, 0.144, 0.118, 6.5, 0.34),
    (0.10, 0.2, 0.139, 0.124, 6.3, 0.37),
    (0.10, 0.4, 0.241, 0.224, 9.8, 0.63),
]


def strategy(budget: dict[str, object], fusion: object, prior_C: np.ndarray) -> Composed:
    config = parse_strategy({"prior": "global", "fusion": fusion, "budget": budget})
    built = config.build(prior=KnownPrior(prior_C))
    assert isinstance(built, Composed)
    return built


def baseline_P(built: Composed, batch: Batch) -> np.ndarray:
    groups = Groups.of(batch, built.scale)
    fused = built.fusion.fuse(groups, built.prior.predict(batch))
    out = np.zeros(batch.prompts)
    out[batch.prompt_N] = fused.mean_N
    return out


def mse(
    built: Composed, rate_C: np.ndarray, total: int, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    batch, _ = play(built, coin(rate_C), len(rate_C), total, rng)
    error = baseline_P(built, batch) - rate_C[batch.prompt_id_P]
    return SIGNED * float((error**2).mean()), np.bincount(batch.prompt_N)


@pytest.mark.parametrize(("sd", "bias", "fused", "sequential", "mean_k", "share"), TABLE)
def test_monte_carlo_table(
    sd: float, bias: float, fused: float, sequential: float, mean_k: float, share: float
) -> None:
    rng = np.random.default_rng(1)
    rate_C = rng.beta(A, B, PROMPTS)
    prior_C = wrong_prior(rate_C, sd, bias, rng)
    fixed = strategy({"type": "fixed", "group_size": 4}, "tested", prior_C)
    assert mse(fixed, rate_C, 4 * PROMPTS, rng)[0] == pytest.approx(fused, abs=0.0015)
    extra = strategy({"type": "sequential", "reserve": 0.75}, "tested", prior_C)
    found, count_P = mse(extra, rate_C, 16 * PROMPTS, rng)
    assert found == pytest.approx(sequential, abs=0.0015)
    assert count_P.mean() == pytest.approx(mean_k, abs=0.06)
    assert (count_P > 4).mean() == pytest.approx(share, abs=0.008)


@pytest.mark.parametrize("k", [4, 8, 16])
def test_error_of_the_group_mean(k: int) -> None:
    """The closed form E[p (1 - p)] / k is .1765, .0882, .0441 in +-1 units for k = 4, 8, 16."""
    want = SIGNED * A * B / ((A + B) * (A + B + 1.0)) / k
    rng = np.random.default_rng(2)
    rate_C = rng.beta(A, B, PROMPTS)
    fixed = strategy({"type": "fixed", "group_size": k}, "group_mean", rate_C)
    assert mse(fixed, rate_C, k * PROMPTS, rng)[0] == pytest.approx(want, abs=0.0015)


@pytest.mark.parametrize(("n0", "want"), [(4, 0.053), (8, 0.036)])
def test_beta_counts_are_a_strong_rival(n0: float, want: float) -> None:
    rng = np.random.default_rng(3)
    rate_C = rng.beta(A, B, PROMPTS)
    prior_C = wrong_prior(rate_C, 0.1, 0.0, rng)
    mixed = strategy({"type": "fixed", "group_size": 4}, {"type": "beta", "n0": n0}, prior_C)
    assert mse(mixed, rate_C, 4 * PROMPTS, rng)[0] == pytest.approx(want, abs=0.0015)


@pytest.mark.parametrize(("k", "d_signed"), [(4, 0.580), (8, 0.508), (12, 0.607), (15, 1.427)])
def test_continue_thresholds(k: int, d_signed: float) -> None:
    """In +-1 units s2 = 1; in 0/1 units both d and sqrt(s2) halve, so the decision is the same."""

    def goes_on(d: float, s2: float) -> bool:
        error = excess(np.array([d]), np.array([s2 / k]), 1.0) / s2
        return bool(gain(np.array([float(k)]), error)[0] > 1 / 256)

    assert not goes_on(d_signed - 0.001, 1.0)
    assert goes_on(d_signed + 0.001, 1.0)
    assert not goes_on((d_signed - 0.001) / 2, 0.25)
    assert goes_on((d_signed + 0.001) / 2, 0.25)


def test_a_cost_of_a_256th_makes_16_the_natural_stop() -> None:
    worst = np.array([1e9])
    assert gain(np.array([15.0]), worst)[0] > 1 / 256
    assert gain(np.array([16.0]), worst)[0] < 1 / 256


def test_the_papers_level_is_the_papers_rule() -> None:
    assert pytest.approx(chi2.sf(1, 1), abs=1e-12) == PAPER_ALPHA
    c = threshold(PAPER_ALPHA)
    d, k = np.meshgrid(np.linspace(-1, 1, 401), np.arange(1, 33))
    d = np.where(d == 0, 1e-9, d)
    v = 0.25 / k
    np.testing.assert_allclose(shrink_weight(d, v, c), np.maximum(0, 1 - v / d**2), atol=1e-12)


def test_levels_at_the_ends() -> None:
    d, v = np.linspace(-1, 1, 201), np.full(201, 0.25 / 4)
    np.testing.assert_allclose(shrink_weight(d, v, threshold(1 - 1e-12)), d**2 / (d**2 + v), atol=1e-9)
    assert not shrink_weight(d, v, threshold(1e-30)).any()


@pytest.mark.parametrize("alpha", [0.01, 0.1, PAPER_ALPHA, 0.9])
@pytest.mark.parametrize("k", [2, 4, 16])
def test_bias_bound(alpha: float, k: int) -> None:
    """|E b - mu| <= sqrt(max(1, c) s2 / k), exactly: the expectation is a sum over k + 1 outcomes."""
    rule, c = Rule(alpha=alpha), threshold(alpha)
    s = np.arange(k + 1)
    groups = Groups(np.repeat(s, k), (np.arange(k) < s[:, None]).ravel() * 1.0, k + 1)
    for mu in np.linspace(0, 1, 21):
        weight = binom.pmf(s, k, mu)
        for v in np.linspace(0, 1, 21):
            fused = rule.fuse(groups, ValueEstimate(mean_P=np.full(k + 1, v))).mean_N[::k]
            assert abs(weight @ fused - mu) <= np.sqrt(max(1.0, c) * 0.25 / k) + 1e-12


def coupling(fusion: object, seed: int = 4) -> float:
    """E[(b - mu)(r_i - mu)] / Var r at k = 4 under a prior of sd .1."""
    rng = np.random.default_rng(seed)
    rate_C = rng.beta(A, B, 4 * PROMPTS)
    built = strategy({"type": "fixed", "group_size": 4}, fusion, wrong_prior(rate_C, 0.1, 0.0, rng))
    batch, _ = play(built, coin(rate_C), len(rate_C), 4 * len(rate_C), rng)
    groups = Groups.of(batch, built.scale)
    fused = built.fusion.fuse(groups, built.prior.predict(batch))
    rate_N = rate_C[batch.prompt_id_P][batch.prompt_N]
    return float(
        ((fused.mean_N - rate_N) * (batch.correct_N - rate_N)).mean() / (rate_N * (1 - rate_N)).mean()
    )


def test_self_coupling() -> None:
    assert coupling("group_mean") == pytest.approx(0.25, abs=0.005)
    assert coupling("tested") == pytest.approx(0.11, abs=0.005)
    assert coupling("leave_one_out") == pytest.approx(0.0, abs=0.005)
    assert coupling({"type": "tested", "leave_one_out": True}) == pytest.approx(0.0, abs=0.005)


def test_the_acceptance_rate_under_a_true_prior_is_nominal_at_one_half() -> None:
    rng = np.random.default_rng(5)
    k, prompts = 400, 20_000
    mean_P = rng.binomial(k, 0.5, prompts) / k
    for alpha in (0.05, PAPER_ALPHA, 0.7):
        w = shrink_weight(mean_P - 0.5, np.full(prompts, 0.25 / k), threshold(alpha))
        assert (w == 0).mean() == pytest.approx(1 - alpha, abs=0.04), "lattice of k = 400 coin flips"
    mean_P = rng.binomial(k, 0.1, prompts) / k
    w = shrink_weight(mean_P - 0.1, np.full(prompts, 0.25 / k), threshold(PAPER_ALPHA))
    assert (w == 0).mean() > 0.85, "away from one half the level is conservative"


@pytest.mark.parametrize("k", [1, 2, 4, 7, 16])
def test_exact_test_equals_scipy(k: int) -> None:
    prior = np.concatenate([np.linspace(0, 1, 41), np.random.default_rng(6).random(20)])
    cases = [(s, v) for s in range(k + 1) for v in prior]
    found = pvalues(np.full(len(cases), k), np.array([s for s, _ in cases]), np.array([v for _, v in cases]))
    want = [binomtest(s, k, float(v)).pvalue for s, v in cases]
    np.testing.assert_allclose(found, want, atol=1e-12)


def test_gradient_scale_of_sequential_stopping() -> None:
    """Leave-one-out does not repair sequential stopping; the per-round form does."""
    plain = measure_bias("v05_loo", 600_000)
    assert plain.scale > 1.0 + 10 * plain.error
    unbiased = measure_bias("v05_unbiased", 600_000)
    assert abs(unbiased.scale - 1.0) < 4 * unbiased.error


@pytest.mark.parametrize("name", ["rloo", "jspo", "remax", "poise", "kae", "basis", "tether", "evpo"])
def test_unbiased_presets_are_unbiased(name: str) -> None:
    # Values per token are slow to make.
    found = measure_bias(name, 150_000 if name in ("tether", "evpo") else 600_000)
    assert abs(found.scale - 1.0) < 4 * found.error
    assert found.error < 0.005


def test_the_group_mean_shrinks_the_gradient_by_one_over_k() -> None:
    found = measure_bias("dr_grpo", 600_000)
    assert abs(found.scale - 15 / 16) < 4 * found.error


@pytest.mark.slow
def test_gradient_scales_at_full_size() -> None:
    assert abs(measure_bias("v05_unbiased", 4_000_000, seed=1).scale - 1.0) < 0.002
    assert measure_bias("v05_loo", 4_000_000, seed=1).scale == pytest.approx(1.034, abs=0.006)


def test_sequential_rounds_never_overdraw_and_spend_where_the_gain_is_largest() -> None:
    rng = np.random.default_rng(7)
    rate_C = rng.random(64)
    built = strategy({"type": "sequential", "reserve": 0.1}, "tested", rng.random(64))
    assert isinstance(built.budget, Sequential)
    total = 200
    batch, _ = play(built, coin(rate_C), 64, total, rng, rounds=100)
    assert batch.rollouts <= total
    assert np.bincount(batch.prompt_N).max() <= 16
