"""One fake engine for all strategies: Bernoulli rewards, no model. It enforces budgets as the loop does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from trainables.strategies.batch import (
    Batch,
    Decision,
    Features,
    Kind,
    Pool,
    Requests,
    RolloutBudget,
    Stats,
    Verdict,
)
from trainables.strategies.protocol import ReadsPrompts, Strategy


@dataclass(frozen=True)
class Vectors:
    """Prompt vectors for priors that read them: a smooth code of the prompt's id, shuffled."""

    blocks = (6, 2)

    def __call__(self, prompt_P: np.ndarray) -> np.ndarray:
        turn_PK = (prompt_P[:, None] * 137 % 400) * np.array([0.05, 0.11, 0.23, 0.41])
        return np.concatenate([np.sin(turn_PK), np.cos(turn_PK)], axis=1).astype(np.float32)


def provided(strategy: Strategy) -> Strategy:
    """The strategy with what the loop provides once, before the first step."""
    if strategy.needs().encoder is not None and isinstance(strategy, ReadsPrompts):
        strategy.provide(Vectors())
    return strategy


@dataclass
class FakeEngine:
    """`rate_C` are the true pass rates of the prompts; prompt c is in stratum `stratum_C[c]`."""

    rate_C: np.ndarray
    stratum_C: np.ndarray
    total: int = 128
    rounds: int = 12
    seed: int = 0
    failure_rate: float = 0.0
    shaping: float = 0.0
    cursor: int = 0
    drawn: int = 0
    decisions: list[Decision] = field(default_factory=list)

    def step(self, strategy: Strategy, step: int = 0, rollout_budget: RolloutBudget | None = None) -> Batch:
        """One step up to scoring; `observe` is the caller's."""
        rng = np.random.default_rng((self.seed, step))
        rollout_budget = rollout_budget or RolloutBudget(
            rollouts=self.total, rounds=self.rounds, step=step, total=self.total
        )
        requests = strategy.select(self.pool(rng), rollout_budget)
        batch = None
        while True:
            requests = self._cut(requests, rollout_budget.rollouts)
            if requests.rollouts:
                batch = self._draw(requests, batch, rng)
                rollout_budget = replace(rollout_budget, rollouts=rollout_budget.rollouts - requests.rollouts)
            if batch is None:
                raise RuntimeError("nothing was drawn")
            if requests.rollouts:
                rollout_budget = replace(rollout_budget, rounds=rollout_budget.rounds - 1)
            decision = strategy.decide(batch, rollout_budget)
            self.decisions.append(decision)
            if decision.drop_P is not None:
                batch = replace(batch, dropped_P=batch.dropped_P | decision.drop_P)
            if (
                decision.done
                or rollout_budget.rollouts <= 0
                or rollout_budget.rounds <= 0
                or not requests.rollouts
            ):
                return batch
            parts = [decision.more] if decision.more is not None else []
            if decision.new_prompts:
                parts.append(strategy.select(self.pool(rng), rollout_budget, decision.new_prompts))
            requests = Requests(
                *(
                    np.concatenate([getattr(p, name) for p in parts])
                    for name in ("prompt_R", "count_R", "kind_R", "trainable_R")
                )
            )

    def pool(self, rng: np.random.Generator) -> Pool:
        order = np.roll(np.arange(len(self.rate_C)), -self.cursor)
        return Pool(order, self.stratum_C[order], rng)

    def _cut(self, requests: Requests, rollout_budget: int) -> Requests:
        before = np.cumsum(requests.count_R) - requests.count_R
        return replace(requests, count_R=np.clip(rollout_budget - before, 0, requests.count_R))

    def _draw(self, requests: Requests, batch: Batch | None, rng: np.random.Generator) -> Batch:
        row = np.repeat(np.arange(len(requests.prompt_R)), requests.count_R)
        known = np.zeros(0, np.int64) if batch is None else batch.prompt_id_P
        fresh = [p for p in dict.fromkeys(requests.prompt_R[row].tolist()) if p not in set(known.tolist())]
        self.cursor = (self.cursor + len(fresh)) % len(self.rate_C)
        ids = np.concatenate([known, np.array(fresh, np.int64)])
        place = {p: i for i, p in enumerate(ids.tolist())}
        prompt = requests.prompt_R[row]
        n = len(row)
        self.drawn += n
        verdict = np.where(rng.random(n) < self.failure_rate, int(Verdict.ERROR), int(Verdict.OK))
        correct = (rng.random(n) < self.rate_C[prompt]).astype(float)
        greedy = requests.kind_R[row] == Kind.GREEDY
        correct = np.where(greedy, (self.rate_C[prompt] > 0.5) * 1.0, correct) * (verdict == Verdict.OK)
        length = rng.integers(1, 9, n)
        shaping = self.shaping * (length > 6) * (verdict == Verdict.OK)
        new = {
            "prompt_N": np.array([place[p] for p in prompt.tolist()], np.int64),
            "round_N": np.full(n, 0 if batch is None else int(batch.round_N.max()) + 1),
            "kind_N": requests.kind_R[row],
            "trainable_N": requests.trainable_R[row],
            "verdict_N": verdict,
            "correct_N": correct,
            "reward_N": correct - shaping,
            "length_N": length,
            "version_N": np.zeros(n, np.int64),
        }
        if batch is not None:
            new = {k: np.concatenate([getattr(batch, k), v]) for k, v in new.items()}
        dropped = np.zeros(len(ids), np.bool_)
        if batch is not None:
            dropped[: batch.prompts] = batch.dropped_P
        made = Batch(prompt_id_P=ids, stratum_P=self.stratum_C[ids], dropped_P=dropped, **new)
        return replace(made, features=states(self.rate_C[ids][made.prompt_N], made, self.seed))


def states(rate_N: np.ndarray, batch: Batch, seed: int = 0, blocks: int = 3) -> Features:
    """Hidden states that know the pass rate, more exactly in the last block, and the rollout's length.

    Deterministic in (prompt, index among all), so that the rounds of a step agree.
    """
    rng = np.random.default_rng((seed, 1))
    noise = rng.normal(size=(4096, blocks, 2, 6))[batch.prompt_id_P[batch.prompt_N] * 7 % 4096]
    scale = 0.3 * 0.5 ** np.arange(blocks)[:, None, None]
    state = noise * scale
    state[..., 0] += rate_N[:, None, None]
    state[:, :, 1, 1] += batch.length_N[:, None] / 10.0
    entropy = np.repeat(batch.length_N[:, None] / 20.0, 3, axis=1)
    own = state.astype(np.float32)
    middle = blocks // 2
    return Features(
        middle, own[:, middle, 0], own[:, middle, 1], entropy.astype(np.float32), own.astype(np.float16)
    )


def stats(step: int = 0, logprob_change: float = 0.01) -> Stats:
    """The same change for every prompt, and for more prompts than any test's step has."""
    return Stats(step, np.full(4096, logprob_change))
