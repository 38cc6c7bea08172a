"""What every rollout engine does. NumPy only; the engines' own modules import their libraries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from trainables.learner.tokens import ragged_index
from trainables.weight_sync.weights import Weights

if TYPE_CHECKING:
    from trainables.weight_sync.publish import Manifest, Rendezvous


@dataclass(frozen=True)
class DrawRequest:
    """Rollouts to draw, one row each. R rollouts."""

    prompts: Sequence[Sequence[int]]
    """Token ids of each rollout's prompt, R of them."""
    seed_R: npt.NDArray[np.int64]
    """Seed of each rollout: the same seed, prompt and weights give the same tokens."""
    temperature_R: npt.NDArray[np.float64]
    """0 = greedy."""
    max_tokens_R: npt.NDArray[np.int64]
    min_tokens_R: npt.NDArray[np.int64] | None = None
    """End-of-sequence is not drawn before so many tokens. Benchmarks only: it changes the policy."""

    @property
    def rollouts(self) -> int:
        return len(self.seed_R)

    def take(self, rows: npt.NDArray[np.int64]) -> DrawRequest:
        return DrawRequest(
            prompts=[self.prompts[r] for r in rows],
            seed_R=self.seed_R[rows],
            temperature_R=self.temperature_R[rows],
            max_tokens_R=self.max_tokens_R[rows],
            min_tokens_R=None if self.min_tokens_R is None else self.min_tokens_R[rows],
        )


@dataclass(frozen=True)
class Completions:
    """R rollouts, flat; M response tokens in all."""

    length_R: npt.NDArray[np.int32]
    """Response tokens, the end-of-sequence token included."""
    token_M: npt.NDArray[np.int32]
    logprob_M: npt.NDArray[np.float32]
    """Log-prob of each token under the processed (temperature-scaled) distribution it was drawn from."""
    finished_R: npt.NDArray[np.bool_]
    """False: cut off at `max_tokens`."""
    version: int
    """Policy version of the weights that drew them."""

    def responses(self) -> list[npt.NDArray[np.int32]]:
        """Token ids of each response."""
        return np.split(self.token_M, np.cumsum(self.length_R)[:-1])

    @staticmethod
    def gather(parts: Sequence[Completions], order: npt.NDArray[np.int64]) -> Completions:
        """Parts of one request as one, rows put at the places `order` names."""
        length = np.concatenate([p.length_R for p in parts])
        back = np.argsort(order, kind="stable")
        index = ragged_index(length, back)
        return Completions(
            length_R=length[back],
            token_M=np.concatenate([p.token_M for p in parts])[index],
            logprob_M=np.concatenate([p.logprob_M for p in parts])[index],
            finished_R=np.concatenate([p.finished_R for p in parts])[back],
            version=parts[0].version,
        )


@dataclass(frozen=True)
class Fingerprint:
    """What of an engine could differ between two leases."""

    weights: str
    """Checksum of its parameters."""
    cache_empty: bool
    """Nothing is left in its KV cache."""


class Engine(Protocol):
    """One rollout engine."""

    def draw(self, request: DrawRequest) -> Completions:
        """Sample every rollout of the request."""
        ...

    def reset(self) -> None:
        """Forget whatever the last lease left in caches, NaN included."""
        ...

    def load(self, weights: Weights, version: int) -> None:
        """Take new weights. Whatever was cached under the old ones is forgotten before this returns."""
        ...

    def join(self, rendezvous: Rendezvous, first_rank: int) -> None:
        """Enter the learner's group for weight broadcasts; this engine's workers are `first_rank` and on."""
        ...

    def receive(self, manifest: Manifest, version: int) -> None:
        """As `load`, of weights that the learner broadcasts meanwhile."""
        ...

    def fingerprint(self) -> Fingerprint:
        """What it holds, right after `reset` and `load`."""
        ...

    def close(self) -> None: ...


def eos_token_ids(model: str) -> list[int]:
    """All end-of-sequence ids a model declares in its generation settings, else its tokenizer's.

    Chat models declare two; an engine that knows only one runs past the end of every turn.
    """
    from transformers import AutoTokenizer, GenerationConfig

    try:
        declared = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # a model without generation_config.json
        declared = None
    if declared is None:
        declared = AutoTokenizer.from_pretrained(model).eos_token_id
    return list(declared) if isinstance(declared, list) else [int(declared)]
