"""Wald's sequential probability ratio test of a Bernoulli rate (Ann. Math. Statist. 16, 1945, 117-186)."""

from __future__ import annotations

import math

import numpy as np

from trainables.strategies.batch import FloatArray


def thresholds(alpha: float, beta: float) -> tuple[float, float]:
    """Return (lower, upper) for the log likelihood ratio: log(beta / (1 - alpha)), log((1 - beta) / alpha).

    At or below `lower` the test accepts the smaller rate, at or above `upper` the larger one. `alpha` is the
    error wanted under the smaller rate, `beta` under the larger. What comes out is at most
    alpha / (1 - beta) and beta / (1 - alpha), and their sum is at most alpha + beta (Wald).
    """
    return math.log(beta / (1.0 - alpha)), math.log((1.0 - beta) / alpha)


def log_ratio(hit_P: FloatArray, miss_P: FloatArray, small: float, large: float) -> FloatArray:
    """Return log P(data | rate `large`) / P(data | rate `small`) of counted hits and misses, (P,)."""
    per_hit, per_miss = math.log(large / small), math.log((1.0 - large) / (1.0 - small))
    return np.asarray(per_hit * hit_P + per_miss * miss_P)
