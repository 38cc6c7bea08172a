"""What the prior `context` remembers: a rolling window of the policy's own (prompt, mean reward) pairs.

A head of `trainables.value_models` reads it. Nothing is trained: a step's rewards enter the record after the
update, and the next step reads it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainables.errors import StrategyError
from trainables.strategies.batch import Batch, FloatArray, IntArray, Needs, PromptVectors, Stats
from trainables.strategies.groups import Groups, first_round_N
from trainables.strategies.priors.base import Prior
from trainables.strategies.priors.pool import OtherPrompts
from trainables.strategies.scale import UNIT, Scale, verified_N
from trainables.strategies.value_estimate import ValueEstimate
from trainables.value_models.calibration import Calibration
from trainables.value_models.config import EncoderConfig
from trainables.value_models.heads.base import Context, Head, Prediction
from trainables.value_models.heads.gp import GaussianProcess, Hyper
from trainables.value_models.heads.registry import load_head
from trainables.value_models.heads.scaling import Layout

if TYPE_CHECKING:
    from trainables.strategies.priors.context import ContextPrior

SPREAD = 1.0 / 12.0
"""Variance of a pass rate that is uniform on [0, 1]: what is known of a prompt before any record."""


@dataclass
class Record(Prior):
    """Predicted pass rates of prompts, known before they are sampled.

    Without a fitted head (`head` empty) a Gaussian process is conditioned on the context alone; its length
    scales are chosen anew every `refit` steps. Before the first record a prompt is estimated at the mean
    of the step's other prompts. State: the record (prompt ids, pass rates in [0, 1], rollouts, step) and
    the chosen scales.
    """

    config: ContextPrior
    scale: Scale = UNIT
    record_4N: FloatArray = field(default_factory=lambda: np.zeros((4, 0)))
    """Oldest first: prompt id, pass rate, rollouts behind it, step."""
    steps: int = 0
    """Steps observed."""
    chosen: dict[str, float] | None = None
    """Length scales and variances of the unfitted head."""
    reads: EncoderConfig = field(init=False)
    """Encoder of the prompt vectors: the fitted head's own, or the configured one."""
    _vectors: PromptVectors | None = None
    _fitted: Head | None = None
    _calibration: Calibration = field(default_factory=Calibration)
    _ready: Head | None = None

    def __post_init__(self) -> None:
        self.reads = self.config.encoder
        if self.config.head:
            saved = load_head(Path(self.config.head))
            self._fitted, self.reads, self._calibration = saved.head, saved.encoder, saved.calibration

    def needs(self) -> Needs:
        return Needs(encoder=self.reads)

    def provide(self, vectors: PromptVectors) -> None:
        self._vectors = vectors

    def predict(self, batch: Batch) -> ValueEstimate:
        if not self.record_4N.shape[1]:
            return self._cold(batch)
        return self._estimate(batch.prompt_id_P)

    def predict_prompts(self, prompt_C: IntArray, stratum_C: IntArray) -> ValueEstimate:
        return self._estimate(prompt_C)

    def observe(self, batch: Batch, stats: Stats) -> None:
        used_N = first_round_N(batch, verified_N(batch))
        unit_N = np.where(used_N, self.scale.unit(batch.correct_N), 0.0)
        groups = Groups(batch.prompt_N, unit_N, batch.prompts, used_N)
        seen = np.flatnonzero(groups.count_P > 0)
        new_4N = np.stack(
            [
                batch.prompt_id_P[seen].astype(np.float64),
                np.clip(groups.mean_P[seen], 0.0, 1.0),
                groups.count_P[seen],
                np.full(len(seen), float(self.steps)),
            ]
        )
        self.record_4N = np.concatenate([self.record_4N, new_4N], axis=1)[:, -self.config.size :]
        self.steps += 1
        self._ready = None
        if self._fitted is None and (self.chosen is None or self.steps % self.config.refit == 0):
            self.chosen = asdict(self._bare().adapted(self._context(aged=False)).hyper)

    def state_dict(self) -> dict[str, Any]:
        return {
            "record_4N": self.record_4N.copy(),
            "steps": self.steps,
            "chosen": dict(self.chosen) if self.chosen else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.record_4N = np.asarray(state["record_4N"], np.float64).reshape(4, -1).copy()
        self.steps = int(state["steps"])
        self.chosen = {name: float(value) for name, value in state["chosen"].items()} or None
        self._ready = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": None}

    def _estimate(self, prompt_C: IntArray) -> ValueEstimate:
        context = self._context()
        if self._ready is None:
            self._ready = self._fitted or self._bare().adapted(context, Hyper(**(self.chosen or {})))
        found: Prediction = self._ready.predict(context, self._given()(prompt_C), prompt_C)
        mean_C = np.clip(self._calibration(found.mean_Q), 0.0, 1.0)
        sd_P = None if found.sd_Q is None else self.scale.width * found.sd_Q
        return ValueEstimate(mean_P=self.scale.reward(mean_C), sd_P=sd_P)

    def _cold(self, batch: Batch) -> ValueEstimate:
        """Estimate by the mean of the step's other prompts: a fitted head only knows differences better."""
        pool_P = OtherPrompts(self.scale).predict(batch).mean_P
        middle = float(self.scale.reward(np.array(0.5)))
        mean_P = (
            np.full(batch.prompts, middle) if pool_P is None else np.where(np.isnan(pool_P), middle, pool_P)
        )
        doubt = SPREAD + SPREAD / max(1, batch.prompts - 1)
        return ValueEstimate(mean_P=mean_P, sd_P=np.full(batch.prompts, self.scale.width * np.sqrt(doubt)))

    def _context(self, aged: bool = True) -> Context:
        """Return the record; a row of `age` steps counts as keep^age of its rollouts: the policy has changed.

        Not `aged` where variances are estimated: fewer rollouts than there were look like more noise.
        """
        prompt_N = self.record_4N[0].astype(np.int64)
        _, rate_N, count_N, step_N = self.record_4N
        age_N = (self.steps - 1 - step_N) * aged
        return Context(
            self._given()(prompt_N), rate_N, np.maximum(count_N * self.config.keep**age_N, 1e-3), prompt_N
        )

    def _bare(self) -> GaussianProcess:
        vectors = self._given()
        return GaussianProcess(Layout(vectors.blocks, self.reads.statistics))

    def _given(self) -> PromptVectors:
        if self._vectors is None:
            raise StrategyError(
                "strategy.prior: 'context' reads prompt vectors, and none were provided; call `provide` with "
                "what `needs().encoder` asks for before the first step"
            )
        return self._vectors
