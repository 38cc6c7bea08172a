"""The probe: standardising and optional PCA per part, and a regression on pass rates in [0, 1]. scikit-learn.

Two orders. `released`, as in POISE's code: PCA of the raw states, which it only centres; then its scores are
standardised. `standardised`: the states are, and the PCA's scores enter the regression as they are. Parts
without PCA (the entropies) are standardised in both. POISE: arXiv 2605.07579, section 3; read of its code:
`fit_estimator` (holi-lab/POISE at 511641e), whose values tests/parity/test_poise.py holds.

Shapes: R rows, F columns of one part, K columns after projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from warnings import catch_warnings, simplefilter

import numpy as np
import numpy.typing as npt

from trainables.strategies.batch import FloatArray

Part = npt.NDArray[np.float32]
ModelKind = Literal["ridge", "logistic", "mlp"]
Order = Literal["released", "standardised"]
ROUNDING = 8.0 * float(np.finfo(np.float32).eps)
"""Spread of a score, relative to the length of a state, that is rounding of fp32 and not a direction."""


@dataclass(frozen=True)
class PartProjection:
    """(x - mean) / scale, then onto principal components if there are any."""

    mean_F: Part
    scale_F: Part
    """1 under the order `released` with PCA."""
    basis_FK: Part | None = None
    """Under the order `released` each component is divided by the standard deviation of its scores."""

    @staticmethod
    def fit(part_RF: Part, components: int, order: Order) -> PartProjection:
        """Fit to the rows of one part; `components` = 0 keeps its columns, standardised."""
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler

        if order == "released" and components > 0:
            return PartProjection._of_raw(part_RF, components)
        scaler = StandardScaler(copy=True)
        scaled_RF = scaler.fit_transform(part_RF)
        mean_F, scale_F = scaler.mean_.astype(np.float32), scaler.scale_.astype(np.float32)
        rows, columns = part_RF.shape
        wanted = min(components, rows - 1)
        if not 0 < wanted < columns:
            return PartProjection(mean_F, scale_F)
        pca = PCA(wanted, random_state=0).fit(scaled_RF)
        return PartProjection(mean_F, scale_F, np.ascontiguousarray(pca.components_.T, dtype=np.float32))

    @staticmethod
    def _of_raw(part_RF: Part, components: int) -> PartProjection:
        """Fit PCA to raw states, and fold the scaling of its scores into the components.

        The scores' means over the rows are 0. A direction that the rows do not span scores 0 always: scaled
        to 1, its rounding errors would make the largest number of a state that leaves the rows' span.
        """
        from sklearn.decomposition import PCA

        rows, columns = part_RF.shape
        # In fp64: raw states lie far from 0, and the scaling enlarges the errors of small components.
        raw_RF = part_RF.astype(np.float64)
        pca = PCA(min(components, rows - 1, columns), random_state=0).fit(raw_RF)
        mean_F = raw_RF.mean(axis=0)
        spread_K = ((raw_RF - mean_F) @ pca.components_.T).std(axis=0)
        length = float(np.linalg.norm(part_RF)) / rows**0.5
        weight_K = np.divide(1.0, spread_K, out=np.zeros_like(spread_K), where=spread_K > ROUNDING * length)
        basis_FK = np.ascontiguousarray(pca.components_.T * weight_K, dtype=np.float32)
        return PartProjection(mean_F.astype(np.float32), np.ones(columns, np.float32), basis_FK)

    def apply(self, part_RF: Part) -> Part:
        scaled_RF = (part_RF - self.mean_F) / self.scale_F
        return np.asarray(scaled_RF if self.basis_FK is None else scaled_RF @ self.basis_FK, np.float32)


@dataclass(frozen=True)
class Projection:
    """All parts, side by side."""

    parts: tuple[PartProjection, ...]

    @staticmethod
    def fit(parts: Sequence[Part], components: Sequence[int], order: Order) -> Projection:
        """Fit `components[p]` principal components of part p; 0 = keep its columns."""
        pairs = zip(parts, components, strict=True)
        return Projection(tuple(PartProjection.fit(part, count, order) for part, count in pairs))

    def apply(self, parts: Sequence[Part]) -> Part:
        """Return the (R, K) columns for the regression."""
        return np.concatenate([own.apply(part) for own, part in zip(self.parts, parts, strict=True)], axis=1)

    def state_dict(self) -> list[dict[str, Any]]:
        return [
            {"mean_F": part.mean_F, "scale_F": part.scale_F, "basis_FK": part.basis_FK} for part in self.parts
        ]

    @staticmethod
    def from_state(state: list[dict[str, Any]]) -> Projection:
        return Projection(tuple(PartProjection(**part) for part in state))


@dataclass(frozen=True)
class Regression:
    """Pass rates from projected rows; predictions are clipped to [0, 1]."""

    fitted: Any
    """A fitted model of scikit-learn, or the one rate there is."""
    classifies: bool = False
    """True: it predicts the probabilities of failure and success."""

    @staticmethod
    def fit(row_RK: Part, rate_R: FloatArray, kind: ModelKind, penalty: float) -> Regression:
        """Fit one. `penalty` weighs the squared coefficients against the summed losses of the rows."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.neural_network import MLPRegressor

        if kind == "logistic":
            # A fractional target is a success of weight y and a failure of weight 1 - y.
            weight = np.concatenate([rate_R, 1.0 - rate_R])
            seen = weight > 0
            label = np.repeat([1, 0], len(rate_R))[seen]
            if label.min() == label.max():
                return Regression(float(label[0]))
            model = LogisticRegression(C=1.0 / penalty, max_iter=200)
            model.fit(np.tile(row_RK, (2, 1))[seen], label, sample_weight=weight[seen])
            return Regression(model, classifies=True)
        if kind == "mlp":
            model = MLPRegressor(
                hidden_layer_sizes=(32,), alpha=penalty, solver="lbfgs", max_iter=200, random_state=0
            )
            with catch_warnings():
                # The cap on iterations is meant: a refit must not take longer than a step.
                simplefilter("ignore", ConvergenceWarning)
                return Regression(model.fit(row_RK, rate_R))
        return Regression(Ridge(alpha=penalty, solver="cholesky").fit(row_RK, rate_R.astype(np.float32)))

    def predict(self, row_RK: Part) -> FloatArray:
        if isinstance(self.fitted, float):
            return np.full(len(row_RK), self.fitted)
        if not len(row_RK):
            return np.zeros(0)
        raw = self.fitted.predict_proba(row_RK)[:, 1] if self.classifies else self.fitted.predict(row_RK)
        return np.clip(np.asarray(raw, dtype=np.float64), 0.0, 1.0)
