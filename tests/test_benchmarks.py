"""The benchmarks measure what they say: the parts of a step add up, and the lengths are the given ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import calibration, probe_order
from benchmarks.trl_step import trl_step
from benchmarks.workloads import WORKLOADS, Workload
from trainables.strategies.priors.probing.regression import Order


@pytest.mark.slow
@pytest.mark.parametrize(
    "workload", [Workload("a", 4, 4, longest=8), Workload("b", 4, 4, longest=12, shortest=3)]
)
def test_trl_step(tiny_model: Path, workload: Workload) -> None:
    seconds = trl_step(tiny_model, workload, steps=1, warmup=1)
    parts = seconds.generation, seconds.verification, seconds.preparation, seconds.update, seconds.optimizer
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(seconds.total, rel=1e-6)
    if workload.shortest is None:
        assert workload.rollouts <= seconds.tokens <= workload.rollouts * workload.longest
    else:
        assert seconds.tokens == sum(workload.lengths(1))


def test_calibration_judges_as_the_comparison_does() -> None:
    from trimtab.decide.compare.statistics import CONFIDENCE, paired_interval

    difference_RS = np.random.default_rng(0).normal(0.004, 0.006, (200, 5))
    expected = []
    for row in difference_RS:
        interval = paired_interval(row)
        assert interval is not None
        expected.append(np.sign(interval.mean) if interval.p_value <= 1 - CONFIDENCE else 0)
    assert calibration.verdicts(difference_RS).tolist() == expected
    assert {0, 1} <= set(expected)


def test_calibration_on_the_fitted_process() -> None:
    """What docs/compare.md states, with fewer repeats."""
    process = calibration.fit("paired")
    rows = {row[0]: row[1:] for row in calibration.table(process, repeats=2000, seed=1)}
    # One-sided 2.5 %; 22,000 draws give it to within .1 %.
    assert float(np.mean([better for better, *_ in rows.values()])) == pytest.approx(0.025, abs=0.005)
    power = {seeds: row[3] for seeds, row in rows.items()}
    assert power[5] < 0.2, "five seeds do not see a saving of 20 %"
    assert power[30] < 0.8 < power[40]
    sd = float(calibration.differences(process, process.mean_E, 2, 5000, np.random.default_rng(3)).std())
    gain = calibration.detectable(sd, 5)
    shifted = calibration.differences(process, process.mean_E, 5, 5000, np.random.default_rng(4)) + gain
    assert (calibration.verdicts(shifted) > 0).mean() == pytest.approx(0.8, abs=0.02)
    null_CE = np.tile(process.mean_E, (calibration.SEARCHED, 1))
    _, won = calibration.search(process, null_CE, 2000, np.random.default_rng(2))
    assert (calibration.verdicts(won) > 0).mean() > 0.06, "the search's own winner looks better than it is"


def test_workloads() -> None:
    assert {name: workload.rollouts for name, workload in WORKLOADS.items()} == {
        "short": 128,
        "long": 512,
        "mixed": 512,
    }
    assert set(WORKLOADS["long"].lengths(0)) == {64}
    mixed = WORKLOADS["mixed"].lengths(0)
    assert (min(mixed), max(mixed), len(mixed)) == (4, 64, 512)
    assert mixed == WORKLOADS["mixed"].lengths(0) != WORKLOADS["mixed"].lengths(1)
    assert len({problem.prompt for problem in WORKLOADS["mixed"].problems()}) == 64


@pytest.mark.parametrize("order", ["released", "standardised"])
def test_probe_order_reads_the_twin(order: Order) -> None:
    """States that know only their own rollout's reward foretell nothing of the twin's."""
    rng = np.random.default_rng(0)
    total = probe_order.FITTED + probe_order.HELD
    rate_N = np.repeat(rng.choice([0.1, 0.9], total), 2)
    reward_N = (rng.random(2 * total) < rate_N).astype(np.float64)
    blank = np.zeros((2 * total, 1), np.float32)

    def score(known_N: np.ndarray) -> float:
        return probe_order.brier([blank, blank, known_N[:, None].astype(np.float32)], reward_N, order, 4096)

    # E[(r - p)^2] = .09; a twin's reward says p = .18 or .82.
    assert score(rate_N) == pytest.approx(0.09, abs=0.015)
    assert score(reward_N) == pytest.approx(0.82 * 0.18, abs=0.015)
