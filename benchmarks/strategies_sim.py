"""A vectorised simulation without a model: prompts have known pass rates, rollouts are coin flips.

It runs whole steps of a strategy (select, draw, decide, score) for tens of thousands of prompts at once, so
that the strategy is measured as it runs in training. Shapes: C prompts in the pool, N rollouts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainables.loop.buffer import join
from trainables.strategies.batch import Batch, FloatArray, IntArray, Kind, Pool, Requests, RolloutBudget
from trainables.strategies.priors.base import Prior
from trainables.strategies.protocol import Strategy
from trainables.strategies.value_estimate import ValueEstimate


class Completions(NamedTuple):
    """Outcomes of rollouts: `correct_N`, response `length_N`, and the answer chosen."""

    correct_N: FloatArray
    length_N: IntArray
    action_N: IntArray


Draw = Callable[[IntArray, IntArray, np.random.Generator], Completions]
"""(prompt id, kind, rng) per rollout -> outcome."""


@dataclass
class KnownPrior(Prior):
    """A given prior: the true pass rate plus a chosen error, independent of this step's rewards."""

    mean_C: FloatArray

    def predict(self, batch: Batch) -> ValueEstimate:
        return self.predict_prompts(batch.prompt_id_P, batch.stratum_P)

    def predict_prompts(self, prompt_C: IntArray, stratum_C: IntArray) -> ValueEstimate:
        mean = self.mean_C[prompt_C]
        return ValueEstimate(
            mean_P=mean,
            sd_P=np.full(len(mean), np.sqrt(BETWEEN)),
            within_P=np.full(len(mean), WITHIN),
        )


A, B = 1.2, 2.2
"""Pass rates are Beta(1.2, 2.2): mean .35, many hard prompts."""
BETWEEN = A * B / ((A + B) ** 2 * (A + B + 1.0))
WITHIN = A * B / ((A + B) * (A + B + 1.0))
"""Variance of the pass rate, and mean variance of one reward. EBPO's running estimates converge to them."""


def wrong_prior(rate_C: FloatArray, sd: float, bias: float, rng: np.random.Generator) -> FloatArray:
    """Return pass rates plus bias plus a normal error, clipped to [0, 1]."""
    return np.clip(rate_C + bias + rng.normal(0.0, 1.0, len(rate_C)) * sd, 0.0, 1.0)


def coin(rate_C: FloatArray) -> Draw:
    """Draw rollouts that are correct with the prompt's pass rate; a greedy one if that is above 1/2."""

    def draw(prompt_N: IntArray, kind_N: IntArray, rng: np.random.Generator) -> Completions:
        rate_N = rate_C[prompt_N]
        rate_N = np.where(kind_N == Kind.GREEDY, (rate_N > 0.5).astype(np.float64), rate_N)
        correct_N = (rng.random(len(prompt_N)) < rate_N).astype(np.float64)
        return Completions(correct_N, rng.integers(1, 9, len(prompt_N)), np.zeros(len(prompt_N), np.int64))

    return draw


def play(
    strategy: Strategy,
    draw: Draw,
    prompts: int,
    total: int,
    rng: np.random.Generator,
    rounds: int = 16,
    decorate: Callable[[Batch], Batch] | None = None,
) -> tuple[Batch, npt.NDArray[np.int64]]:
    """Run one step over the pool 0..prompts-1 and return its final batch and each rollout's action.

    `decorate` adds what a learner would compute (values, features) before every decision.
    """
    rollout_budget = RolloutBudget(rollouts=total, rounds=rounds, step=0, total=total)
    ids_C, zeros_C = np.arange(prompts), np.zeros(prompts, np.int64)
    batch, action_N, unused_C = None, np.zeros(0, np.int64), np.ones(prompts, np.bool_)
    requests = strategy.select(Pool(ids_C, zeros_C, rng), rollout_budget)
    while requests.rollouts:
        batch, action_N = _extend(batch, action_N, requests, draw, rng)
        unused_C[requests.prompt_R] = False
        batch = batch if decorate is None else decorate(batch)
        rollout_budget = replace(
            rollout_budget,
            rollouts=rollout_budget.rollouts - requests.rollouts,
            rounds=rollout_budget.rounds - 1,
        )
        if rollout_budget.rollouts < 0:
            raise RuntimeError("the strategy overdrew its rollout budget")
        decision = strategy.decide(batch, rollout_budget)
        if decision.drop_P is not None:
            batch = replace(batch, dropped_P=batch.dropped_P | decision.drop_P)
        if decision.done:
            break
        requests = decision.more if decision.more is not None else Requests.samples([], 1)
        if decision.new_prompts:
            fresh = ids_C[unused_C]
            rest = replace(rollout_budget, rollouts=rollout_budget.rollouts - requests.rollouts)
            new = strategy.select(Pool(fresh, zeros_C[fresh], rng), rest, decision.new_prompts)
            requests = join(requests, new)
    if batch is None:
        raise RuntimeError("nothing was drawn")
    return batch, action_N


def _extend(
    batch: Batch | None,
    action_N: npt.NDArray[np.int64],
    requests: Requests,
    draw: Draw,
    rng: np.random.Generator,
) -> tuple[Batch, npt.NDArray[np.int64]]:
    repeat = np.repeat(np.arange(len(requests.prompt_R)), requests.count_R)
    prompt, kind = requests.prompt_R[repeat], requests.kind_R[repeat]
    drawn = draw(prompt, kind, rng)
    known = np.zeros(0, np.int64) if batch is None else batch.prompt_id_P
    ids = np.concatenate([known, np.setdiff1d(prompt, known)])
    place = np.full(int(ids.max()) + 1, -1)
    place[ids] = np.arange(len(ids))
    n = len(prompt)
    new: dict[str, Any] = {
        "prompt_N": place[prompt],
        "round_N": np.full(n, 0 if batch is None else int(batch.round_N.max()) + 1),
        "kind_N": kind,
        "trainable_N": requests.trainable_R[repeat],
        "verdict_N": np.zeros(n, np.int64),
        "correct_N": drawn.correct_N,
        "reward_N": drawn.correct_N,
        "length_N": drawn.length_N,
        "version_N": np.zeros(n, np.int64),
    }
    if batch is not None:
        new = {name: np.concatenate([getattr(batch, name), column]) for name, column in new.items()}
    dropped = np.zeros(len(ids), np.bool_)
    dropped[: len(known)] = False if batch is None else batch.dropped_P
    made = Batch(prompt_id_P=ids, stratum_P=np.zeros(len(ids), np.int64), dropped_P=dropped, **new)
    return made, np.concatenate([action_N, drawn.action_N])
