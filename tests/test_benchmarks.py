"""The benchmarks measure what they say: the parts of a step add up, and the lengths are the given ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.trl_step import trl_step
from benchmarks.workloads import WORKLOADS, Workload


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
