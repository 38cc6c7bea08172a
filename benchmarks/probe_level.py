"""Measure how often V0.5's test rejects a probe that is right on average: `python -m benchmarks.probe_level`.

Each state knows a share of its own rollout's reward r beyond the pass rate p: it predicts p + known (r - p).
If the probe reads the same group that it is tested against, with mean m, then V = p + known (m - p) and
d = m - V = (1 - known) (m - p): the difference is smaller than the test assumes. If the probe reads other
rollouts of the prompt, the variance of d is (1 + known^2) s2 / k instead.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2

from trainables.strategies.fusion.tested import PAPER_ALPHA, excess, threshold


def rejection_rate(known: float, own: bool, k: int = 10_007, prompts: int = 60_000, seed: int = 0) -> float:
    """Simulate the share of prompts whose true prior is rejected, at pass rate 1/2, where the level is exact.

    Args:
        k: Rollouts of each prompt.
        own: Whether the probe reads the same rollouts; otherwise it reads k others.
    """
    rng = np.random.default_rng(seed)
    mean_P = rng.binomial(k, 0.5, prompts) / k
    read_P = mean_P if own else rng.binomial(k, 0.5, prompts) / k
    prior_P = 0.5 + known * (read_P - 0.5)
    delta2_P = excess(mean_P - prior_P, np.full(prompts, 0.25 / k), threshold(PAPER_ALPHA))
    return float((delta2_P > 0).mean())


def expected_rate(known: float, own: bool) -> float:
    """Return the limit for large k: P(chi2_1 > c / ratio), where d has the variance ratio * s2 / k."""
    ratio = (1.0 - known) ** 2 if own else 1.0 + known**2
    return float(chi2.sf(threshold(PAPER_ALPHA) / ratio, 1)) if ratio > 0 else 0.0


def main() -> None:
    print(f"share of true priors rejected at the nominal level {PAPER_ALPHA:.3f}, pass rate 1/2, k = 10,007")
    print("| a state knows | same group | by the formula | other rollouts | by the formula |")
    print("|---|---|---|---|---|")
    for known in (0.0, 0.1, 0.25, 0.5, 0.75):
        cells = [f(known, own) for own in (True, False) for f in (rejection_rate, expected_rate)]
        print(f"| {known:.2f} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
