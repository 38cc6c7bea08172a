"""Ragged token batches, and how they are cut into padded micro-batches. NumPy only.

Shapes: N rollouts, S prompt-plus-response tokens of all rollouts, M response tokens of all rollouts,
B rows of a micro-batch, Q its longest prompt, T its longest response.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TokenBatch:
    """N rollouts in the learner's format: flat, without padding."""

    prompt_length_N: Int32
    response_length_N: Int32
    """At least 1: a response holds at least its end-of-sequence token."""
    token_S: Int32
    """Prompt then response of each rollout, one rollout after another."""
    sampler_logprob_M: Float32
    """Log-prob of each response token under the engine that drew it (processed: at its temperature)."""

    @property
    def rollouts(self) -> int:
        """Number of rollouts, N."""
        return len(self.prompt_length_N)

    @property
    def response_tokens(self) -> int:
        """Response tokens of all rollouts, M."""
        return int(self.response_length_N.sum())

    @property
    def tokens(self) -> int:
        """Prompt and response tokens of all rollouts, S."""
        return len(self.token_S)

    def take(self, rows: npt.NDArray[np.int64]) -> TokenBatch:
        """Return the given rollouts, in the given order."""
        return TokenBatch(
            prompt_length_N=self.prompt_length_N[rows],
            response_length_N=self.response_length_N[rows],
            token_S=take_ragged(self.token_S, self.prompt_length_N + self.response_length_N, rows),
            sampler_logprob_M=take_ragged(self.sampler_logprob_M, self.response_length_N, rows),
        )

    @staticmethod
    def concatenate(parts: Sequence[TokenBatch]) -> TokenBatch:
        """Return the rollouts of all parts, one part after another."""
        return TokenBatch(
            prompt_length_N=np.concatenate([part.prompt_length_N for part in parts]),
            response_length_N=np.concatenate([part.response_length_N for part in parts]),
            token_S=np.concatenate([part.token_S for part in parts]),
            sampler_logprob_M=np.concatenate([part.sampler_logprob_M for part in parts]),
        )


@dataclass(frozen=True)
class TrainBatch:
    """A mini-batch: tokens with what the loss needs."""

    tokens: TokenBatch
    old_logprob_M: Float32
    """Log-prob of each response token under the learner before the update."""
    advantage_M: Float32
    weight_N: Float32
    """Weight of each rollout in the loss."""
    denominator: float
    """What the sum over all tokens (or rollouts) of the mini-batch is divided by; the same on every rank."""
    reference_logprob_M: Float32 | None = None
    """Log-prob of each response token under the reference, if the loss has a KL to one."""

    def take(self, rows: npt.NDArray[np.int64]) -> TrainBatch:
        """Return the given rollouts, in the given order."""
        lengths, reference_M = self.tokens.response_length_N, self.reference_logprob_M
        return TrainBatch(
            tokens=self.tokens.take(rows),
            old_logprob_M=take_ragged(self.old_logprob_M, lengths, rows),
            advantage_M=take_ragged(self.advantage_M, lengths, rows),
            weight_N=self.weight_N[rows],
            denominator=self.denominator,
            reference_logprob_M=None if reference_M is None else take_ragged(reference_M, lengths, rows),
        )


@dataclass(frozen=True)
class Padded:
    """One micro-batch of B rows and S = Q + T columns.

    Prompts are padded on the left and responses on the right, so that the responses are the last T columns.
    """

    row_B: npt.NDArray[np.int64]
    """Rollout of each row; -1 marks a filler row, which contributes nothing."""
    token_BS: npt.NDArray[np.int64]
    mask_BS: npt.NDArray[np.int64]
    response_mask_BT: npt.NDArray[np.bool_]


def take_ragged(flat: Float32 | Int32, length_N: Int32, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Take rows of a ragged array that is stored flat, `length_N[n]` values each."""
    return flat[ragged_index(length_N, rows)]


def ragged_index(length_N: Int32, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the positions, in a flat ragged array, of the values of the given rows in the given order."""
    length = length_N[rows].astype(np.int64)
    start = (np.cumsum(length_N) - length_N)[rows]
    first = np.cumsum(length) - length
    index: npt.NDArray[np.int64] = np.repeat(start - first, length) + np.arange(int(length.sum()))
    return index


def deal(batch: TokenBatch, ranks: int) -> list[npt.NDArray[np.int64]]:
    """Deal rows to the ranks in turn, longest first, so that all ranks carry about the same."""
    order = np.argsort(-(batch.prompt_length_N + batch.response_length_N), kind="stable")
    return [order[rank::ranks].astype(np.int64) for rank in range(ranks)]


def micro_batches(batch: TokenBatch, budget: int, pad_token: int) -> Iterator[Padded]:
    """Cut a batch into micro-batches of at most `budget` padded tokens, similar lengths together.

    A single rollout longer than the budget still gets a micro-batch of its own.
    """
    length_N = batch.prompt_length_N + batch.response_length_N
    order = np.argsort(-length_N, kind="stable")
    begin = 0
    while begin < len(order):
        end = begin + 1
        while end < len(order) and (end + 1 - begin) * _width(batch, order[begin : end + 1]) <= budget:
            end += 1
        yield pad(batch, order[begin:end], pad_token)
        begin = end


def _width(batch: TokenBatch, rows: npt.NDArray[np.int64]) -> int:
    return int(batch.prompt_length_N[rows].max() + batch.response_length_N[rows].max())


def pad(batch: TokenBatch, rows: npt.NDArray[np.int64], pad_token: int) -> Padded:
    """Pad the given rows into one micro-batch."""
    prompt_B = batch.prompt_length_N[rows].astype(np.int64)
    response_B = batch.response_length_N[rows].astype(np.int64)
    longest_prompt, longest_response = int(prompt_B.max()), int(response_B.max())
    column_S = np.arange(longest_prompt + longest_response)
    mask = (column_S >= longest_prompt - prompt_B[:, None]) & (
        column_S < longest_prompt + response_B[:, None]
    )
    token = np.full(mask.shape, pad_token, dtype=np.int64)
    # Row-major order of the mask is the order of the flat tokens: rollout by rollout, prompt then response.
    token[mask] = take_ragged(batch.token_S, batch.prompt_length_N + batch.response_length_N, rows)
    return Padded(
        row_B=np.asarray(rows, dtype=np.int64),
        token_BS=token,
        mask_BS=mask.astype(np.int64),
        response_mask_BT=np.arange(longest_response) < response_B[:, None],
    )


def filler(pad_token: int) -> Padded:
    """Return a micro-batch that contributes nothing.

    A rank that has run out of rows must still take part in the others' collectives: ZeRO hangs otherwise.
    """
    return Padded(
        row_B=np.array([-1], dtype=np.int64),
        token_BS=np.full((1, 2), pad_token, dtype=np.int64),
        mask_BS=np.ones((1, 2), dtype=np.int64),
        response_mask_BT=np.zeros((1, 1), dtype=np.bool_),
    )
