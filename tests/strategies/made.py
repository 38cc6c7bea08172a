"""Batches written down rollout by rollout, and parts that say what they are told to, to work by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from trainables.strategies.batch import Batch, Decision, Kind, Needs, Pool, Requests, RolloutBudget
from trainables.strategies.budget.base import Budget, Outlook, Progress
from trainables.strategies.priors.base import Prior
from trainables.strategies.value_estimate import ValueEstimate

LEFT = RolloutBudget(rollouts=10, rounds=3, step=0, total=16)


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


@dataclass
class Says(Prior):
    """A prior that says what it is told to."""

    estimate: ValueEstimate | None
    wants: Needs = field(default_factory=Needs)
    pool: list[Any] = field(default_factory=list)

    def needs(self) -> Needs:
        return self.wants

    def predict(self, batch: Batch) -> ValueEstimate | None:
        return self.estimate

    def predict_prompts(self, prompt_C: np.ndarray, stratum_C: np.ndarray) -> ValueEstimate | None:
        self.pool.append((prompt_C.tolist(), stratum_C.tolist()))
        return self.estimate

    def targets(self, batch: Batch) -> tuple[np.ndarray, ...] | None:
        return tuple(np.full(int(length), 0.25) for length in batch.length_N)

    def metrics(self, batch: Batch) -> dict[str, float]:
        return {"said": 7.0}


class SaysByGreedy(Says):
    extra: ClassVar[Kind | None] = Kind.GREEDY


@dataclass
class Asks(Budget):
    """A budget that keeps what it was shown."""

    shown: list[Any] = field(default_factory=list)
    reads_prior: ClassVar[bool] = True

    def select(self, outlook: Outlook) -> Requests:
        self.shown.append(outlook)
        return outlook.take(2, 3)

    def decide(self, progress: Progress) -> Decision:
        self.shown.append(progress)
        return Decision(new_prompts=5)

    def shortfall(self, progress: Progress) -> float:
        self.shown.append(progress)
        return 0.125

    def notes(self, progress: Progress) -> dict[str, float]:
        return {"asked": 8.0}


class Blind(Asks):
    reads_prior: ClassVar[bool] = False


class Foresees(Asks):
    foresight: ClassVar[bool] = True


class ForeseesNear(Foresees):
    whole_pool: ClassVar[bool] = False


def pool(prompts: int) -> Pool:
    return Pool(np.arange(prompts) + 40, np.arange(prompts), np.random.default_rng(0))
