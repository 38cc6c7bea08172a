"""The interface of rollout engines. NumPy only; the engines' own modules import their libraries.

Shapes: R rollouts of a request, M response tokens of all of them.
"""

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
    """R rollouts to draw, one row each."""

    prompts: Sequence[Sequence[int]]
    """Token ids of each rollout's prompt, R of them."""
    seed_R: npt.NDArray[np.int64]
    """Seed of each rollout: the same seed, prompt and weights give the same tokens."""
    temperature_R: npt.NDArray[np.float64]
    """0 = greedy."""
    max_tokens_R: npt.NDArray[np.int64]
    min_tokens_R: npt.NDArray[np.int64] | None = None
    """End-of-sequence is not sampled before this many tokens. Benchmarks only: it changes the policy."""

    @property
    def rollouts(self) -> int:
        """Number of rollouts, R."""
        return len(self.seed_R)

    def take(self, rows: npt.NDArray[np.int64]) -> DrawRequest:
        """Return the given rollouts, in the given order."""
        return DrawRequest(
            prompts=[self.prompts[r] for r in rows],
            seed_R=self.seed_R[rows],
            temperature_R=self.temperature_R[rows],
            max_tokens_R=self.max_tokens_R[rows],
            min_tokens_R=None if self.min_tokens_R is None else self.min_tokens_R[rows],
        )


@dataclass(frozen=True)
class Completions:
    """The responses to a request: R rollouts, M response tokens, flat and in the request's order."""

    length_R: npt.NDArray[np.int32]
    """Response tokens, the end-of-sequence token included."""
    token_M: npt.NDArray[np.int32]
    logprob_M: npt.NDArray[np.float32]
    """Log-prob of each token under the distribution it was sampled from, at the request's temperature."""
    finished_R: npt.NDArray[np.bool_]
    """False: cut off at `max_tokens`."""
    version: int
    """Policy version of the weights that sampled them."""

    def responses(self) -> list[npt.NDArray[np.int32]]:
        """Return the token ids of each response."""
        return np.split(self.token_M, np.cumsum(self.length_R)[:-1])

    @staticmethod
    def gather(parts: Sequence[Completions], order: npt.NDArray[np.int64]) -> Completions:
        """Join the parts of one request; row i of the parts, one after another, becomes row `order[i]`."""
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
    """What could differ in an engine between two leases."""

    weights: str
    """Checksum of its parameters, one per tensor-parallel worker."""
    cache_empty: bool
    """True: its KV cache holds nothing."""


class Engine(Protocol):
    """One rollout engine."""

    def draw(self, request: DrawRequest) -> Completions:
        """Sample every rollout of the request."""
        ...

    def reset(self) -> None:
        """Forget whatever the last lease left in caches, NaN included."""
        ...

    def load(self, weights: Weights, version: int) -> None:
        """Take new weights. Whatever was cached under the old ones is gone when this returns."""
        ...

    def join(self, rendezvous: Rendezvous, first_rank: int) -> None:
        """Join the learner's broadcast group, this engine's workers as ranks from `first_rank` on."""
        ...

    def receive(self, manifest: Manifest, version: int) -> None:
        """Take new weights as `load` does, while the learner broadcasts them."""
        ...

    def fingerprint(self) -> Fingerprint:
        """Return what the engine holds. Meant for right after `reset` and `load`."""
        ...

    def close(self) -> None:
        """Give its memory back."""
        ...


def eos_token_ids(model: str) -> list[int]:
    """Return all end-of-sequence ids that a model declares in its generation settings, else its tokenizer's.

    Chat models declare two. An engine that knows only one of them runs past the end of every turn.
    """
    from transformers import AutoTokenizer, GenerationConfig

    try:
        declared = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # a model without generation_config.json
        declared = None
    if declared is None:
        declared = AutoTokenizer.from_pretrained(model).eos_token_id
    return list(declared) if isinstance(declared, list) else [int(declared)]
