"""The records of several policies as arrays over one table of prompt vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainables.value_models.encoder import Encoder
from trainables.value_models.heads.base import Context, Float32, Float64, Int64
from trainables.value_models.heads.scaling import Layout
from trainables.value_models.records import Row, texts_of


@dataclass(frozen=True)
class Table:
    """R rows over P prompts; `policies` are (dataset, model, step), in that order."""

    features_PF: Float32
    prompt_R: Int64
    policy_R: Int64
    rate_R: Float64
    count_R: Float64
    policies: tuple[tuple[str, str, int], ...]
    layout: Layout

    @staticmethod
    def of(
        rows: Sequence[Row], prompts: Mapping[str, str], encoder: Encoder, statistics: bool = True
    ) -> Table:
        """Encode the rows' prompts.

        Raises:
            RecordError: a prompt of the rows has no text.
        """
        texts = texts_of(rows, prompts)
        text_of = {row.key: text for row, text in zip(rows, texts, strict=True)}
        keys = sorted(text_of)
        place = {key: i for i, key in enumerate(keys)}
        policies = tuple(sorted({row.policy for row in rows}))
        number = {policy: i for i, policy in enumerate(policies)}
        return Table(
            features_PF=encoder.encode([text_of[key] for key in keys]),
            prompt_R=np.array([place[row.key] for row in rows], np.int64),
            policy_R=np.array([number[row.policy] for row in rows], np.int64),
            rate_R=np.array([row.rate for row in rows]),
            count_R=np.array([float(row.count) for row in rows]),
            policies=policies,
            layout=Layout(encoder.blocks, statistics),
        )

    def context(self, rows: Int64) -> Context:
        """Return the rows of these numbers as a context."""
        prompt_N = self.prompt_R[rows]
        return Context(self.features_PF[prompt_N], self.rate_R[rows], self.count_R[rows], prompt_N)

    def features(self, rows: Int64) -> Float32:
        """Return the prompt vectors of the rows of these numbers."""
        found: Float32 = self.features_PF[self.prompt_R[rows]]
        return found
