"""Baselines for every other head: mean rates, nearest neighbours, kernel smoothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainables.value_models.heads.base import (
    Context,
    Float32,
    Float64,
    Head,
    Int64,
    Prediction,
    squared_distances,
)
from trainables.value_models.heads.scaling import Layout

START = 0.5
"""Predicted pass rate without any evidence."""


@dataclass
class GlobalRate(Head):
    """Predicts the mean of the logged policies, whatever the context says."""

    rate: float = START
    kind = "global"

    def fit(self, records: Sequence[Context]) -> None:
        self.rate = float(np.mean(np.concatenate([record.rate_N for record in records])))

    def predict(self, context: Context, queries_QF: Float32, prompt_Q: Int64 | None = None) -> Prediction:
        return Prediction(np.full(len(queries_QF), self.rate))

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        return {"rate": self.rate}, {}

    def load(self, settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        self.rate = float(settings["rate"])


@dataclass
class ContextMean(Head):
    """Predicts the mean of the context with two pseudo-rows at one half."""

    kind = "mean"

    def predict(self, context: Context, queries_QF: Float32, prompt_Q: Int64 | None = None) -> Prediction:
        return Prediction(np.full(len(queries_QF), _rate(context)))


@dataclass
class Neighbours(Head):
    """Predicts the mean of the k rows that are nearest by cosine of the encoder's last layer."""

    layout: Layout
    k: int = 16
    kind = "knn"

    def predict(self, context: Context, queries_QF: Float32, prompt_Q: Int64 | None = None) -> Prediction:
        if not len(context):
            return Prediction(np.full(len(queries_QF), START))
        similarity_QN = unit(self.layout.top(queries_QF)) @ unit(self.layout.top(context.features_NF)).T
        k = min(self.k, len(context))
        near_QK = np.argpartition(-similarity_QN, k - 1, axis=1)[:, :k]
        return Prediction(context.rate_N[near_QK].mean(1))


@dataclass
class Smoother(Head):
    """Nadaraya-Watson: predicts a weighted mean of the rows.

    Weights are exp(-d^2 / (2 width^2)); d is the distance of the encoder's last layers, scaled to length 1.
    """

    layout: Layout
    width: float = 0.35
    kind = "smoother"

    def predict(self, context: Context, queries_QF: Float32, prompt_Q: Int64 | None = None) -> Prediction:
        distance_QN = squared_distances(
            unit(self.layout.top(queries_QF)), unit(self.layout.top(context.features_NF))
        )
        weight_QN = np.exp(-distance_QN / (2.0 * self.width**2)).astype(np.float64)
        # Half a row at the context's mean, so that a query far from every row gets that mean, not 0 / 0.
        total_Q = weight_QN.sum(1) + 0.5
        return Prediction((weight_QN @ context.rate_N + 0.5 * _rate(context)) / total_Q)


def unit(features_NF: Float32) -> Float32:
    """Scale rows to length 1; rows of zeros stay."""
    length_N = np.linalg.norm(features_NF, axis=1, keepdims=True)
    scaled: Float32 = features_NF / np.maximum(length_N, 1e-12)
    return scaled


def _rate(context: Context) -> float:
    rates: Float64 = context.rate_N
    return float((rates.sum() + 2.0 * START) / (len(rates) + 2.0))
