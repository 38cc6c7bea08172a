"""Batches written down rollout by rollout, for what is worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainables.strategies.batch import Batch
from trainables.strategies.value_estimate import ValueEstimate


def batch_of(correct: list[list[float]], **given: Any) -> Batch:
    """One group per list: prompts 70, 71, ... of stratum 0, one round of verified samples, 1 token each."""
    sizes = [len(group) for group in correct]
    rollouts, prompts = sum(sizes), len(sizes)
    correct_N = np.array([value for group in correct for value in group], np.float64)
    fields = {
        "prompt_id_P": 70 + np.arange(prompts),
        "stratum_P": np.zeros(prompts, np.int64),
        "prompt_N": np.repeat(np.arange(prompts), sizes),
        "round_N": np.zeros(rollouts, np.int64),
        "kind_N": np.zeros(rollouts, np.int64),
        "trainable_N": np.ones(rollouts, np.bool_),
        "verdict_N": np.zeros(rollouts, np.int64),
        "correct_N": correct_N,
        "reward_N": correct_N,
        "length_N": np.ones(rollouts, np.int64),
        "version_N": np.zeros(rollouts, np.int64),
        "dropped_P": np.zeros(prompts, np.bool_),
    }
    return Batch(**{**fields, **given})


def per_prompt(*value: float, **more: Any) -> ValueEstimate:
    return ValueEstimate(mean_P=np.array(value), **more)
