"""Measure the speed of the strategy arithmetic on one core: `python -m benchmarks.fusion_speed`.

Prints one line per target, and exits with 1 if one is missed. NumPy's element-wise code uses one core.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from trainables.strategies.batch import Batch, RolloutBudget
from trainables.strategies.budget.base import Progress
from trainables.strategies.budget.sequential import Sequential
from trainables.strategies.fusion.tested import Tested
from trainables.strategies.groups import Groups
from trainables.strategies.value_estimate import ValueEstimate


def draws(prompts: int, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw (prompt_N, value_N, prior_P) of Bernoulli groups whose prior has a normal error of sd .1."""
    rng = np.random.default_rng(seed)
    rate_P = rng.beta(1.2, 2.2, prompts)
    prior_P = np.clip(rate_P + rng.normal(0, 0.1, prompts), 0, 1)
    value_N = (rng.random((prompts, each), np.float32) < rate_P[:, None]).ravel().astype(np.float64)
    return np.repeat(np.arange(prompts), each), value_N, prior_P


def fused(rule: Tested, prompts: int) -> Callable[[], object]:
    prompt_N, value_N, prior_P = draws(prompts, 16)
    # Groups caches its sums, so each run gets a new one and pays for them.
    return lambda: rule.fuse(Groups(prompt_N, value_N, prompts), ValueEstimate(mean_P=prior_P))


def sequential_round(prompts: int) -> Callable[[], object]:
    prompt_N, value_N, prior_P = draws(prompts, 4)
    n = len(prompt_N)
    zeros = np.zeros(n, np.int64)
    batch = Batch(
        prompt_id_P=np.arange(prompts),
        stratum_P=np.zeros(prompts, np.int64),
        prompt_N=prompt_N,
        round_N=zeros,
        kind_N=zeros,
        trainable_N=np.ones(n, np.bool_),
        verdict_N=zeros,
        correct_N=value_N,
        reward_N=value_N,
        length_N=zeros + 4,
        version_N=zeros,
        dropped_P=np.zeros(prompts, np.bool_),
    )
    budget = Sequential()
    rollout_budget = RolloutBudget(rollouts=prompts, rounds=12, step=0, total=5 * prompts)

    def run() -> object:
        groups = Groups(prompt_N, value_N, prompts, round_N=zeros)
        return budget.decide(Progress(batch, groups, rollout_budget, prior_P))

    return run


def best(run: Callable[[], object], repeats: int) -> float:
    """Return the seconds of the fastest of `repeats` runs, which other processes disturbed least."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


CASES: dict[str, tuple[Callable[[], Callable[[], object]], int, float]] = {
    "tested fusion, 1,000,000 prompts x 16": (lambda: fused(Tested(), 1_000_000), 3, 1.0),
    "tested fusion, leave-one-out, 1,000,000 prompts x 16": (
        lambda: fused(Tested(leave_one_out=True), 1_000_000),
        3,
        1.0,
    ),
    "exact test, 100,000 prompts x 16": (lambda: fused(Tested(test="exact"), 100_000), 3, 1.0),
    "exact test, leave-one-out, 100,000 prompts x 16": (
        lambda: fused(Tested(test="exact", leave_one_out=True), 100_000),
        3,
        1.0,
    ),
    "sequential round, 10,000 prompts": (lambda: sequential_round(10_000), 20, 0.010),
}
"""Name -> (set-up, repeats, target in seconds)."""


def main() -> int:
    missed = 0
    for name, (set_up, repeats, target) in CASES.items():
        seconds = best(set_up(), repeats)
        missed += seconds > target
        verdict = "ok" if seconds <= target else "MISSED"
        print(
            f"{name:55s} {seconds:8.4f} s = {seconds / target:5.2f} of {target:5.2f} s   {verdict}",
            flush=True,
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
