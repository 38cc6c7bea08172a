"""A strategy that gets worse: right answers are pushed down."""

from __future__ import annotations

import numpy as np
from broken import Broken

from trainables.strategies.batch import Batch, Pool, Requests, RolloutBudget, Scores


class Unlearn(Broken):
    def select(self, pool: Pool, rollout_budget: RolloutBudget, wanted: int | None = None) -> Requests:
        return Requests.samples(pool.prompt_C[: rollout_budget.rollouts // 4], 4)

    def score(self, batch: Batch) -> Scores:
        return Scores(advantage_N=-batch.reward_N, weight_N=batch.valid_N.astype(np.float64))
