"""A user's strategy that fails in its third step."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainables.strategies.batch import Batch, Decision, Needs, Pool, Requests, RolloutBudget, Scores, Stats


class Broken:
    """Plain REINFORCE until it breaks."""

    def needs(self) -> Needs:
        return Needs()

    def select(self, pool: Pool, rollout_budget: RolloutBudget, wanted: int | None = None) -> Requests:
        if rollout_budget.step == 2:
            raise RuntimeError("the user's own bug")
        return Requests.samples(pool.prompt_C[: rollout_budget.rollouts // 4], 4)

    def decide(self, batch: Batch, rollout_budget: RolloutBudget) -> Decision:
        return Decision()

    def score(self, batch: Batch) -> Scores:
        return Scores(advantage_N=batch.reward_N, weight_N=batch.valid_N.astype(np.float64))

    def observe(self, batch: Batch, stats: Stats) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
