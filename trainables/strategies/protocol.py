"""The contract between the training loop and a strategy. The loop knows nothing else about baselines.

One step:  select -> [draw, verify, decide]* -> score -> update -> observe.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

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


@runtime_checkable
class Strategy(Protocol):
    """A baseline: which prompts to sample, how often, and what each rollout's advantage is.

    Implementations are picklable and deterministic: the only randomness is `pool.rng`.
    """

    def needs(self) -> Needs:
        """Return what `decide` and `score` read beyond rewards. Asked once, before the first step."""
        ...

    def select(self, pool: Pool, rollout_budget: RolloutBudget, wanted: int | None = None) -> Requests:
        """Choose prompts before sampling.

        `wanted` is None at the start of a step, or the number of fresh prompts an earlier decision asked for.
        The total of the counts must not exceed `rollout_budget.rollouts`; the loop cuts what does.
        """
        ...

    def decide(self, batch: Batch, rollout_budget: RolloutBudget) -> Decision:
        """Choose after each round: draw more, add prompts, drop prompts, or be done."""
        ...

    def score(self, batch: Batch) -> Scores:
        """Return advantages and weights. Pure: twice gives the same, and no state changes."""
        ...

    def observe(self, batch: Batch, stats: Stats) -> None:
        """Learn from the step, after its update: the only place where state changes."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON-serialisable values and NumPy arrays; no objects that need pickle."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly what `state_dict` returned."""
        ...


@runtime_checkable
class ReadsPrompts(Protocol):
    """A strategy that asked for prompt vectors (`Needs.encoder`)."""

    def provide(self, vectors: PromptVectors) -> None:
        """Take the vectors: once, before the first step and before `load_state_dict`."""
        ...
