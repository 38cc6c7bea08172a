"""The rollouts of one training step while they are being gathered: rounds, rewards, decisions."""

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
    """Columns of rollouts, one entry a round."""

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


def one_row_each(requests: Requests) -> Requests:
    """The same requests, one row a rollout."""
    repeat = np.repeat(np.arange(len(requests.prompt_R)), requests.count_R)
    return Requests(
        prompt_R=requests.prompt_R[repeat],
        count_R=np.ones(len(repeat), dtype=np.int64),
        kind_R=requests.kind_R[repeat],
        trainable_R=requests.trainable_R[repeat],
    )


def cut(requests: Requests, rollout_budget: int) -> Requests:
    """At most `rollout_budget` rollouts: later requests lose first."""
    allowed = np.clip(rollout_budget - (np.cumsum(requests.count_R) - requests.count_R), 0, requests.count_R)
    kept = allowed > 0
    return Requests(
        prompt_R=requests.prompt_R[kept],
        count_R=allowed[kept],
        kind_R=requests.kind_R[kept],
        trainable_R=requests.trainable_R[kept],
    )


@dataclass(frozen=True)
class Reading:
    """What the learner's teacher-forced pass gives, over the rollouts of one or more rounds."""

    logprob_M: Float32
    entropy_M: Float32
    features: Features | None = None
    values: tuple[FloatArray, ...] | None = None

    @staticmethod
    def concatenate(parts: Sequence[Reading]) -> Reading:
        features = [part.features for part in parts if part.features is not None]
        values = [part.values for part in parts if part.values is not None]
        return Reading(
            logprob_M=np.concatenate([part.logprob_M for part in parts]),
            entropy_M=np.concatenate([part.entropy_M for part in parts]),
            features=Features.concatenate(features) if features else None,
            values=tuple(chain.from_iterable(values)) if values else None,
        )

    def onto(self, batch: Batch) -> Batch:
        """The batch with it, per rollout."""
        first = np.cumsum(batch.length_N) - batch.length_N
        return replace(
            batch,
            logprob_N=np.add.reduceat(self.logprob_M.astype(np.float64), first),
            entropy_N=np.add.reduceat(self.entropy_M.astype(np.float64), first) / batch.length_N,
            features=self.features,
            values=self.values,
        )


class RolloutBuffer:
    """Everything drawn in one step. `batch()` shows it to the strategy, `tokens()` to the learner."""

    def __init__(self, stratum_of_prompt: IntArray) -> None:
        self._stratum_of_prompt = stratum_of_prompt
        self._prompt_id: list[int] = []
        self._dropped: set[int] = set()
        self._drawn_of: dict[tuple[int, int], int] = {}
        self._rows = _Rows()
        self._read: list[Reading] = []
        self._rounds_read = 0

    @property
    def rounds(self) -> int:
        return len(self._rows.prompt)

    @property
    def rollouts(self) -> int:
        return sum(len(p) for p in self._rows.prompt)

    @property
    def prompt_ids(self) -> IntArray:
        return np.array(self._prompt_id, dtype=np.int64)

    def index_of(self, requests: Requests) -> list[int]:
        """How many rollouts of the same prompt and kind came before each row in this step.

        `requests` has one row a rollout. Call it once a round: it counts.
        """
        index = []
        for prompt, kind in zip(requests.prompt_R.tolist(), requests.kind_R.tolist(), strict=True):
            before = self._drawn_of.get((prompt, kind), 0)
            self._drawn_of[prompt, kind] = before + 1
            index.append(before)
        return index

    def add(
        self,
        requests: Requests,
        prompts: Sequence[Sequence[int]],
        completions: Completions,
        verdict_N: IntArray,
        correct_N: FloatArray,
        loss: LossConfig,
        max_tokens: int,
    ) -> None:
        """Enter one round: `requests` has one row a rollout, in the order of `drawn`."""
        place = {prompt: row for row, prompt in enumerate(self._prompt_id)}
        for prompt in requests.prompt_R.tolist():
            if prompt not in place:
                place[prompt] = len(self._prompt_id)
                self._prompt_id.append(prompt)
        rows = self._rows
        rows.prompt.append(np.array([place[p] for p in requests.prompt_R.tolist()], dtype=np.int64))
        rows.kind.append(requests.kind_R)
        rows.trainable.append(requests.trainable_R)
        rows.verdict.append(verdict_N)
        rows.correct.append(correct_N)
        rows.penalty.append(overlong_penalty(completions.length_R, loss, max_tokens))
        rows.length.append(completions.length_R.astype(np.int64))
        rows.finished.append(completions.finished_R)
        rows.version.append(np.full(len(completions.length_R), completions.version, dtype=np.int64))
        rows.tokens.append(token_batch(prompts, completions))

    def drop(self, drop_P: BoolArray | None) -> None:
        if drop_P is not None:
            self._dropped.update(np.flatnonzero(drop_P).tolist())

    def unread(self) -> TokenBatch | None:
        """Rollouts that the learner has not been through yet; None if it has seen all."""
        fresh = self._rows.tokens[self._rounds_read :]
        return TokenBatch.concatenate(fresh) if fresh else None

    def enter(self, reading: Reading) -> None:
        """What the learner made of the unread rollouts."""
        self._read.append(reading)
        self._rounds_read = self.rounds

    def reading(self) -> Reading:
        """What the learner made of all rollouts that it has read, in order."""
        return Reading.concatenate(self._read)

    def batch(self) -> Batch:
        """All rollouts so far; with what the learner made of them once it has read every one."""
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
        return TokenBatch.concatenate(self._rows.tokens)

    def truncated(self) -> float:
        """Share of rollouts cut off at the token limit."""
        return float(1.0 - np.concatenate(self._rows.finished).mean())


def overlong_penalty(length_N: Int32, loss: LossConfig, max_tokens: int) -> FloatArray:
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13), positive, in [0, 1] reward units.

    0 up to `max_tokens - overlong_buffer`, then linear, full at `max_tokens`.
    """
    if loss.overlong_buffer == 0:
        return np.zeros(len(length_N))
    over = length_N - (max_tokens - loss.overlong_buffer)
    return loss.overlong_penalty * np.clip(over / loss.overlong_buffer, 0.0, 1.0)


def token_batch(prompts: Sequence[Sequence[int]], completions: Completions) -> TokenBatch:
    """Prompts and what was drawn from them, one prompt a rollout, as the learner wants them."""
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
    """0, 1, ..., length - 1 for each row, flat."""
    first = np.cumsum(length_N) - length_N
    return np.arange(int(length_N.sum())) - np.repeat(first, length_N)
