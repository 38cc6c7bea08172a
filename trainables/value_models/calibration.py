"""Calibration: a map from predictions to probabilities, fitted on the outcomes of past steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from trainables.errors import RecordError
from trainables.value_models.heads.base import Float64

Method = Literal["isotonic", "temperature"]
LIMIT = 1e-3


@dataclass
class Calibration:
    """A monotone map of predictions, which never learns from the present: `fit` checks the steps of its rows.

    `isotonic`: pool adjacent violators; `temperature`: sigmoid(logit(p) / T).
    """

    method: Method = "isotonic"
    temperature: float = 1.0
    x_K: Float64 | None = None
    y_K: Float64 | None = None

    def fit(self, predicted_N: Float64, rate_N: Float64, step_N: npt.NDArray[np.int64], before: int) -> None:
        """Fit the map on predictions and outcomes of steps below `before`.

        Raises:
            RecordError: a row is of a later step, or there are fewer than two rows.
        """
        late = step_N >= before
        if late.any():
            raise RecordError(
                f"calibration: {int(late.sum())} of {len(step_N)} rows are of step "
                f"{int(step_N[late].min())} or later, but step {before} is to be predicted; give rows of "
                "earlier steps only"
            )
        if len(predicted_N) < 2:
            raise RecordError(f"calibration: {len(predicted_N)} rows of earlier steps; give at least two")
        if self.method == "temperature":
            self.temperature = _temperature(predicted_N, rate_N)
            return
        from sklearn.isotonic import IsotonicRegression

        fitted = IsotonicRegression(y_min=LIMIT, y_max=1.0 - LIMIT, out_of_bounds="clip")
        fitted.fit(predicted_N, rate_N)
        self.x_K, self.y_K = fitted.X_thresholds_, fitted.y_thresholds_

    def __call__(self, predicted_Q: Float64) -> Float64:
        """Return calibrated probabilities; before a fit, the predictions themselves."""
        if self.method == "temperature":
            mapped: Float64 = _sigmoid(_logit(predicted_Q) / self.temperature)
            return mapped
        if self.x_K is None or self.y_K is None:
            return predicted_Q
        stepped: Float64 = np.interp(predicted_Q, self.x_K, self.y_K)
        return stepped


def _temperature(predicted_N: Float64, rate_N: Float64) -> float:
    logit_N = _logit(predicted_N)

    def loss(log_t: float) -> float:
        p_N = np.clip(_sigmoid(logit_N / np.exp(log_t)), 1e-12, 1 - 1e-12)
        return -float((rate_N * np.log(p_N) + (1.0 - rate_N) * np.log(1.0 - p_N)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))


def _logit(p_N: Float64) -> Float64:
    p_N = np.clip(p_N, LIMIT, 1.0 - LIMIT)
    return np.asarray(np.log(p_N / (1.0 - p_N)))


def _sigmoid(x_N: Float64) -> Float64:
    return np.asarray(1.0 / (1.0 + np.exp(-x_N)))
