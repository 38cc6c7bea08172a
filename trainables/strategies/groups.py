"""Ragged groups of rollouts: one prompt's rollouts are one group. Vectorised with `bincount`.

Shapes: P prompts, N rollouts, R rounds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from trainables.strategies.batch import Batch, BoolArray, FloatArray, IntArray
from trainables.strategies.scale import UNIT, Scale


@dataclass(frozen=True)
class Totals:
    """Sums over cells of rollouts: a cell is a prompt, or a prompt up to and including a round."""

    cell_N: IntArray
    count_C: FloatArray
    sum_C: FloatArray


@dataclass(frozen=True)
class Groups:
    """Groups of one scalar per rollout, in reward units."""

    prompt_N: IntArray
    """Row of each rollout's prompt, 0..P-1."""
    value_N: FloatArray
    prompts: int
    used_N: BoolArray | None = None
    """Rollouts that count; None = all."""
    round_N: IntArray | None = None
    length_N: IntArray | None = None
    scale: Scale = UNIT
    id_P: IntArray | None = None
    """Prompt ids, for messages."""

    @staticmethod
    def of(batch: Batch, scale: Scale) -> Groups:
        """Return groups of `correct` over the valid rollouts."""
        valid_N = batch.valid_N
        return Groups(
            prompt_N=batch.prompt_N,
            value_N=np.where(valid_N, batch.correct_N, 0.0),
            prompts=batch.prompts,
            used_N=None if bool(valid_N.all()) else valid_N,
            round_N=batch.round_N,
            length_N=batch.length_N,
            scale=scale,
            id_P=batch.prompt_id_P,
        )

    def with_values(self, value_N: FloatArray) -> Groups:
        """Return the same groups of another scalar."""
        value_N = value_N if self.used_N is None else np.where(self.used_N, value_N, 0.0)
        return replace(self, value_N=value_N)

    def name(self, row: int) -> int:
        """Return the id of the prompt in a row, for messages."""
        return row if self.id_P is None else int(self.id_P[row])

    @property
    def mask_N(self) -> BoolArray:
        return np.ones(len(self.prompt_N), np.bool_) if self.used_N is None else self.used_N

    @cached_property
    def count_P(self) -> FloatArray:
        """Used rollouts of each prompt, as floats because they enter quotients."""
        return self.total(None)

    @cached_property
    def sum_P(self) -> FloatArray:
        return self.total(self.value_N)

    @cached_property
    def mean_P(self) -> FloatArray:
        """Group means; 0 where a group has no used rollout (see `count_P`)."""
        return np.asarray(self.sum_P / np.maximum(self.count_P, 1.0))

    @cached_property
    def variance_P(self) -> FloatArray:
        """Sample variances (ddof 1); exactly 0 for uniform groups and groups of fewer than two."""
        deviation_N = self.value_N - self.mean_P[self.prompt_N]
        square_P = self.total(deviation_N * deviation_N)
        variance_P: FloatArray = square_P / np.maximum(self.count_P - 1.0, 1.0)
        variance_P[self.uniform_P] = 0.0
        return variance_P

    @cached_property
    def uniform_P(self) -> BoolArray:
        """Groups whose values are all *equal* (or fewer than two). Never judged by a mean's range."""
        used = slice(None) if self.used_N is None else np.flatnonzero(self.used_N)
        prompt_N, value_N = self.prompt_N[used], self.value_N[used]
        first_P = np.zeros(self.prompts)
        # Repeated indices: the last write wins, so the reversed order leaves each prompt's first value.
        first_P[prompt_N[::-1]] = value_N[::-1]
        differs_P = np.bincount(prompt_N[value_N != first_P[prompt_N]], minlength=self.prompts)
        return np.asarray(differs_P == 0, dtype=np.bool_)

    def total(self, weight_N: FloatArray | None) -> FloatArray:
        """Return the sum of `weight_N` (or the count) over the used rollouts of each prompt."""
        if self.used_N is None:
            # A separate call without weights: counting is several times faster than summing ones.
            if weight_N is None:
                return np.bincount(self.prompt_N, minlength=self.prompts).astype(np.float64)
            return np.asarray(np.bincount(self.prompt_N, weight_N, self.prompts), dtype=np.float64)
        used = self.used_N.astype(np.float64) if weight_N is None else np.where(self.used_N, weight_N, 0.0)
        return np.asarray(np.bincount(self.prompt_N, used, self.prompts), dtype=np.float64)

    def totals(self, per_round: bool = False) -> Totals:
        """Return sums that contain a rollout's own value: its whole group, or its group up to its round."""
        if not per_round:
            return Totals(self.prompt_N, self.count_P, self.sum_P)
        rounds = self.rounds
        cell_N = self.prompt_N * rounds + self._round_N
        used_N = self.mask_N.astype(np.float64)
        shape = (self.prompts, rounds)
        count_PR = np.bincount(cell_N, used_N, self.prompts * rounds).reshape(shape)
        sum_PR = np.bincount(cell_N, used_N * self.value_N, self.prompts * rounds).reshape(shape)
        return Totals(cell_N, count_PR.cumsum(axis=1).ravel(), sum_PR.cumsum(axis=1).ravel())

    def others(self, per_round: bool = False) -> tuple[FloatArray, FloatArray]:
        """Return count and sum of the values beside each rollout's own; both (N,), 0 for unused rollouts."""
        totals = self.totals(per_round)
        used_N = self.mask_N
        count_N = np.where(used_N, totals.count_C[totals.cell_N] - 1.0, 0.0)
        sum_N = np.where(used_N, totals.sum_C[totals.cell_N] - self.value_N, 0.0)
        return count_N, sum_N

    @property
    def rounds(self) -> int:
        return int(self._round_N.max(initial=0)) + 1

    @property
    def _round_N(self) -> IntArray:
        return np.zeros(len(self.prompt_N), np.int64) if self.round_N is None else self.round_N


def first_round_N(batch: Batch, used_N: BoolArray) -> BoolArray:
    """Return, of the used rollouts, those of their prompt's first round.

    Later rounds are drawn *because of* what the first showed; a prior that averaged over them would favour
    prompts that surprised it.
    """
    rounds = int(batch.round_N.max(initial=0)) + 1
    cell_N = batch.prompt_N * rounds + batch.round_N
    seen_PR = np.bincount(cell_N[used_N], minlength=batch.prompts * rounds).reshape(batch.prompts, rounds)
    first_P = (seen_PR > 0).argmax(axis=1)
    return np.asarray(used_N & (batch.round_N == first_P[batch.prompt_N]), dtype=np.bool_)
