"""The rollouts of one training step while they are being gathered, and what the learner read of them.

Shapes: N rollouts of the step, R of one round, M response tokens, P prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

from trainables.config import LossConfig
from trainables.learner.tokens import Float32, Int32, TokenBatch
from trainables.rollouts.engine import Completions
from trainables.strategies.batch import (
    Batch,
    BoolArray,
    Features,
    FloatArray,
    IntArray,
    Requests,
    Verdict,
)


@dataclass
class _Rows:
    """Columns of rollouts, one entry per round."""

    prompt: list[IntArray] = field(default_factory=list)
    kind: list[IntArray] = field(default_factory=list)
    trainable: list[BoolArray] = field(default_factory=list)
    verdict: list[IntArray] = field(default_factory=list)
    correct: list[FloatArray] = field(default_factory=list)
    penalty: list[FloatArray] = field(default_factory=list)
    length: list[IntArray] = field(default_factory=list)
    finished: list[BoolArray] = field(default_factory=list)
    version: list[IntArray] = field(default_factory=list)
    tokens: list[TokenBatch] = field(default_factory=list)


@dataclass(frozen=True)
class Reading:
    """What the learner's teacher-forced pass gives, over the rollouts of one or more rounds."""

    logprob_M: Float32
    entropy_M: Float32
    features: Features | None = None
    values: tuple[FloatArray, ...] | None = None

    @staticmethod
    def concatenate(parts: Sequence[Reading]) -> Reading:
        """Join the readings of successive rounds."""
        features = [part.features for part in parts if part.features is not None]
        values = [part.values for part in parts if part.values is not None]
        return Reading(
            logprob_M=np.concatenate([part.logprob_M for part in parts]),
            entropy_M=np.concatenate([part.entropy_M for part in parts]),
            features=Features.concatenate(features) if features else None,
            values=tuple(chain.from_iterable(values)) if values else None,
        )

    def onto(self, batch: Batch) -> Batch:
        """Return the batch with this reading, summed or averaged per rollout."""
        first = np.cumsum(batch.length_N) - batch.length_N
        return replace(
            batch,
            logprob_N=np.add.reduceat(self.logprob_M.astype(np.float64), first),
            entropy_N=np.add.reduceat(self.entropy_M.astype(np.float64), first) / batch.length_N,
            features=self.features,
            values=self.values,
        )


class RolloutBuffer:
    """All rollouts of one step. `batch()` shows them to the strategy, `tokens()` to the learner."""

    def __init__(self, stratum_of_prompt: IntArray) -> None:
        self._stratum_of_prompt = stratum_of_prompt
        self._prompt_id: list[int] = []
        self._dropped: set[int] = set()
        self._count_of: dict[tuple[int, int], int] = {}
        self._rows = _Rows()
        self._read: list[Reading] = []
        self._rounds_read = 0

    @property
    def rounds(self) -> int:
        """Rounds so far."""
        return len(self._rows.prompt)

    @property
    def rollouts(self) -> int:
        """Rollouts so far, dropped ones included."""
        return sum(len(p) for p in self._rows.prompt)

    @property
    def prompt_ids(self) -> IntArray:
        """Ids (P,) of the step's prompts, in order of first appearance."""
        return np.array(self._prompt_id, dtype=np.int64)

    def index_of(self, requests: Requests) -> list[int]:
        """Number each row among the step's rollouts of the same prompt and kind, from 0.

        `requests` has one row per rollout. Call it once per round: it counts.
        """
        index = []
        for prompt, kind in zip(requests.prompt_R.tolist(), requests.kind_R.tolist(), strict=True):
            before = self._count_of.get((prompt, kind), 0)
            self._count_of[prompt, kind] = before + 1
            index.append(before)
        return index

    def add(
        self,
        requests: Requests,
        prompts: Sequence[Sequence[int]],
        completions: Completions,
        verdict_R: IntArray,
        correct_R: FloatArray,
        loss: LossConfig,
        max_tokens: int,
    ) -> None:
        """Add one round: `requests` has one row per rollout, in the order of `prompts` and `completions`."""
        place = {prompt: row for row, prompt in enumerate(self._prompt_id)}
        for prompt in requests.prompt_R.tolist():
            if prompt not in place:
                place[prompt] = len(self._prompt_id)
                self._prompt_id.append(prompt)
        rows = self._rows
        rows.prompt.append(np.array([place[p] for p in requests.prompt_R.tolist()], dtype=np.int64))
        rows.kind.append(requests.kind_R)
        rows.trainable.append(requests.trainable_R)
        rows.verdict.append(verdict_R)
        rows.correct.append(correct_R)
        rows.penalty.append(overlong_penalty(completions.length_R, loss, max_tokens))
        rows.length.append(completions.length_R.astype(np.int64))
        rows.finished.append(completions.finished_R)
        rows.version.append(np.full(len(completions.length_R), completions.version, dtype=np.int64))
        rows.tokens.append(token_batch(prompts, completions))

    def drop(self, drop_P: BoolArray | None) -> None:
        """Leave prompts out of training. Their rollouts stay in the batch and stay paid for."""
        if drop_P is not None:
            self._dropped.update(np.flatnonzero(drop_P).tolist())

    def unread(self) -> TokenBatch | None:
        """Return the rollouts that the learner has not read yet; None if it has read all."""
        fresh = self._rows.tokens[self._rounds_read :]
        return TokenBatch.concatenate(fresh) if fresh else None

    def enter(self, reading: Reading) -> None:
        """Add what the learner read of the unread rollouts."""
        self._read.append(reading)
        self._rounds_read = self.rounds

    def reading(self) -> Reading:
        """Return what the learner read of all rollouts that it has read, in order."""
        return Reading.concatenate(self._read)

    def batch(self) -> Batch:
        """Return all rollouts so far, with the learner's reading once it has read every one."""
        rows = self._rows
        prompt_id = self.prompt_ids
        verdict = np.concatenate(rows.verdict)
        correct = np.where(verdict == Verdict.OK, np.concatenate(rows.correct), 0.0)
        penalty = np.where(verdict == Verdict.OK, np.concatenate(rows.penalty), 0.0)
        dropped = np.zeros(len(prompt_id), dtype=np.bool_)
        dropped[list(self._dropped)] = True
        batch = Batch(
            prompt_id_P=prompt_id,
            stratum_P=self._stratum_of_prompt[prompt_id],
            prompt_N=np.concatenate(rows.prompt),
            round_N=np.repeat(np.arange(self.rounds), [len(p) for p in rows.prompt]),
            kind_N=np.concatenate(rows.kind),
            trainable_N=np.concatenate(rows.trainable),
            verdict_N=verdict,
            correct_N=correct,
            reward_N=correct - penalty,
            length_N=np.concatenate(rows.length),
            version_N=np.concatenate(rows.version),
            dropped_P=dropped,
        )
        return self.reading().onto(batch) if self._rounds_read == self.rounds else batch

    def tokens(self) -> TokenBatch:
        """Return the tokens of all rollouts, in order."""
        return TokenBatch.concatenate(self._rows.tokens)

    def truncated(self) -> float:
        """Return the share of rollouts that were cut off at the token limit."""
        return float(1.0 - np.concatenate(self._rows.finished).mean())


def overlong_penalty(length_N: Int32, loss: LossConfig, max_tokens: int) -> FloatArray:
    """Return DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13) as a positive number of reward units.

    0 up to `max_tokens - overlong_buffer`, then linear, full at `max_tokens`.
    """
    if loss.overlong_buffer == 0:
        return np.zeros(len(length_N))
    over = length_N - (max_tokens - loss.overlong_buffer)
    return loss.largest_penalty * np.clip(over / loss.overlong_buffer, 0.0, 1.0)


def token_batch(prompts: Sequence[Sequence[int]], completions: Completions) -> TokenBatch:
    """Join each rollout's prompt (token ids, one list per rollout) and response into the learner's format."""
    prompt_length = np.array([len(p) for p in prompts], dtype=np.int32)
    total = prompt_length + completions.length_R
    token = np.empty(int(total.sum()), dtype=np.int32)
    start = np.cumsum(total) - total
    in_prompt = np.repeat(start, prompt_length) + _within(prompt_length)
    in_response = np.repeat(start + prompt_length, completions.length_R) + _within(completions.length_R)
    token[in_prompt] = np.concatenate([np.asarray(p, dtype=np.int32) for p in prompts])
    token[in_response] = completions.token_M
    return TokenBatch(prompt_length, completions.length_R, token, completions.logprob_M)


def _within(length_N: Int32) -> IntArray:
    """Return 0, 1, ..., length - 1 for each row, flat."""
    first = np.cumsum(length_N) - length_N
    return np.arange(int(length_N.sum())) - np.repeat(first, length_N)


def one_row_each(requests: Requests) -> Requests:
    """Return the same requests with one row per rollout."""
    row = np.repeat(np.arange(len(requests.prompt_R)), requests.count_R)
    return Requests(
        prompt_R=requests.prompt_R[row],
        count_R=np.ones(len(row), dtype=np.int64),
        kind_R=requests.kind_R[row],
        trainable_R=requests.trainable_R[row],
    )


def cut(requests: Requests, limit: int) -> Requests:
    """Keep at most `limit` rollouts: later requests lose first."""
    allowed_R = np.clip(limit - (np.cumsum(requests.count_R) - requests.count_R), 0, requests.count_R)
    kept = allowed_R > 0
    return Requests(
        prompt_R=requests.prompt_R[kept],
        count_R=allowed_R[kept],
        kind_R=requests.kind_R[kept],
        trainable_R=requests.trainable_R[kept],
    )


def join(first: Requests, second: Requests) -> Requests:
    """Return the requests of `first`, then those of `second`."""
    return Requests(
        prompt_R=np.concatenate([first.prompt_R, second.prompt_R]),
        count_R=np.concatenate([first.count_R, second.count_R]),
        kind_R=np.concatenate([first.kind_R, second.kind_R]),
        trainable_R=np.concatenate([first.trainable_R, second.trainable_R]),
    )
