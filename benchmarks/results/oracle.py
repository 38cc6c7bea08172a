"""Control `oracle`: a baseline that knows the policy's pass rate, at no cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainables.strategies.batch import Batch, Decision, Needs, Pool, Requests, RolloutBudget, Scores, Stats


class Oracle:
    """r - the mean reward of rollouts of the same prompt that are not trained.

    Each prompt has `trained` rollouts for the update and `asked` others, of the same policy, for its
    baseline. The baseline is unbiased and its error is sd / sqrt(asked): what a perfect value model could
    give. The loop counts every rollout as compute. Whoever shows the curve divides by
    `(trained + asked) / trained`.
    """

    def __init__(self, trained: int = 2, asked: int = 16) -> None:
        self.trained, self.asked = trained, asked

    def needs(self) -> Needs:
        return Needs()

    def select(self, pool: Pool, rollout_budget: RolloutBudget, wanted: int | None = None) -> Requests:
        prompts = rollout_budget.rollouts // (self.trained + self.asked)
        prompt = pool.prompt_C[: prompts if wanted is None else min(wanted, prompts)]
        drawn = Requests.samples(np.tile(prompt, 2), np.repeat([self.trained, self.asked], len(prompt)))
        trainable_R = np.repeat([True, False], len(prompt))
        return Requests(drawn.prompt_R, drawn.count_R, drawn.kind_R, trainable_R)

    def decide(self, batch: Batch, rollout_budget: RolloutBudget) -> Decision:
        return Decision()

    def score(self, batch: Batch) -> Scores:
        asked_N = (batch.verdict_N == 0) & ~batch.trainable_N
        count_P = np.bincount(batch.prompt_N[asked_N], minlength=batch.prompts)
        sum_P = np.bincount(batch.prompt_N[asked_N], batch.correct_N[asked_N], minlength=batch.prompts)
        baseline_N = (sum_P / np.maximum(count_P, 1))[batch.prompt_N]
        scored_N = batch.valid_N & (count_P > 0)[batch.prompt_N]
        advantage_N = np.where(scored_N, batch.reward_N - baseline_N, 0.0)
        notes = {"baseline_mean": float(baseline_N[scored_N].mean())} if scored_N.any() else {}
        return Scores(advantage_N, scored_N.astype(np.float64), diagnostics=notes)

    def observe(self, batch: Batch, stats: Stats) -> None:
        return

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        return
