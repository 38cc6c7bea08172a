"""Train with one strategy first, while another one's prior gathers evidence (POISE's cold start)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainables.strategies.batch import (
    Batch,
    Decision,
    Needs,
    Pool,
    PromptVectors,
    Requests,
    RolloutBudget,
    Scores,
    Stats,
)
from trainables.strategies.protocol import ReadsPrompts, Strategy

if TYPE_CHECKING:
    from trainables.strategies.config import WarmupConfig


LARGE = 1 / 3
"""Share of a run from which its warm-up is worth a warning."""


@dataclass(frozen=True)
class WarmUpPlan:
    """The part of a run in which a strategy's learned prior does not act yet."""

    updates: int
    """Updates of a run before the prior acts."""
    under: str
    """Strategy that trains meanwhile; empty: nothing is trained but the critic."""

    @classmethod
    def of(cls, strategy: Mapping[str, Any]) -> WarmUpPlan | None:
        """Read it from a resolved strategy as JSON; None: there is no warm-up."""
        warmup, prior = strategy.get("warmup"), strategy.get("prior")
        alone = int(prior.get("warmup_updates", 0)) if isinstance(prior, Mapping) else 0
        if not isinstance(warmup, Mapping):
            return cls(alone, "") if alone else None
        # Both observe every step, so the longer one decides when the prior acts.
        under = str(warmup["strategy"].get("name") or "another strategy")
        return cls(max(int(warmup["updates"]), alone), under)

    def share(self, updates: Iterable[int]) -> float:
        """Return the share of these runs, each of so many updates, that was warm-up."""
        done = list(updates)
        return sum(min(self.updates, one) for one in done) / max(1, sum(done))

    @property
    def never(self) -> str:
        """Say what it means where all of a run was warm-up."""
        trained = f"trained by {self.under} alone" if self.under else "of a policy that never trained"
        return f"its prior never acted; read it as a run {trained}"


@dataclass
class Warmup:
    """`first` for `updates` updates, then `main`. Both observe every step."""

    config: WarmupConfig
    first: Strategy
    main: Strategy
    seen: int = 0

    @property
    def active(self) -> Strategy:
        return self.first if self.seen < self.config.updates else self.main

    def needs(self) -> Needs:
        """Return the union: what `main` learns from must be there from the first step."""
        return self.first.needs().union(self.main.needs())

    def provide(self, vectors: PromptVectors) -> None:
        for strategy in (self.first, self.main):
            if isinstance(strategy, ReadsPrompts) and strategy.needs().encoder is not None:
                strategy.provide(vectors)

    def select(self, pool: Pool, rollout_budget: RolloutBudget, wanted: int | None = None) -> Requests:
        return self.active.select(pool, rollout_budget, wanted)

    def decide(self, batch: Batch, rollout_budget: RolloutBudget) -> Decision:
        return self.active.decide(batch, rollout_budget)

    def score(self, batch: Batch) -> Scores:
        """Return advantages of the strategy in turn, and value targets of `main` from the first step on."""
        scores = self.active.score(batch)
        if self.active is self.main or self.main.needs().values is None:
            return scores
        return replace(scores, value_targets=self.main.score(batch).value_targets)

    def observe(self, batch: Batch, stats: Stats) -> None:
        self.first.observe(batch, stats)
        self.main.observe(batch, stats)
        self.seen += 1

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first.state_dict(), "main": self.main.state_dict(), "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first.load_state_dict(state["first"])
        self.main.load_state_dict(state["main"])
        self.seen = int(state["seen"])
