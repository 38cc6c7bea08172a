"""Gaussian process on encoder features, the default head. NumPy and SciPy only, no gradient.

A policy's pass rates are f(x) = b + g(x) + e: an offset b of the policy, a smooth part g with kernel
a exp(-|z - z'|^2 / 2) on scaled features z, and an effect e of the single prompt (variance v) that no
feature explains. A row, the mean of k rollouts, adds noise w / k. Fitting on logged policies conditions g on
their rows (minus each policy's own mean) through M inducing prompts (Nystroem; Rasmussen and Williams 2006,
chapter 8.3). Their evidence is weighted by a power gamma <= 1 (power prior, Ibrahim and Chen 2000), because
they are not the policy at hand. A context then conditions b, g and e exactly; without a fit it is the only
evidence.

Length scales and the split of a and v maximise the marginal likelihood over a small grid; the total a + v
and w come from moments. Outcomes are in [0, 1]; predictions are clipped to [LIMIT, 1 - LIMIT].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from trainables.errors import RecordError
from trainables.value_models.heads.base import (
    Context,
    Float32,
    Float64,
    Head,
    Int64,
    Prediction,
    squared_distances,
)
from trainables.value_models.heads.scaling import Layout, Scaling

LIMIT = 0.005
OFFSET_VARIANCE = 1.0 / 12.0
"""Variance of the offset b around one half: uniform on [0, 1] before any evidence."""
STATES = (0.4, 0.55, 0.75, 1.1)
STATISTICS = (0.5, 1.0, 2.0, 4.0)
SMOOTH = (0.2, 0.4, 0.6, 0.8, 0.95)
"""Candidates: length scales of the two parts, and smooth shares a / (a + v)."""
SAMPLE = 768
"""Rows on which a fit computes the marginal likelihood."""


@dataclass(frozen=True)
class Hyper:
    """Hyperparameters, in the symbols of the module."""

    states: float = 0.5
    statistics: float = 2.0
    smooth: float = 0.6
    total: float = OFFSET_VARIANCE
    """a + v."""
    within: float = 1.0 / 6.0
    """w: variance of one rollout around its prompt's pass rate."""

    @property
    def a(self) -> float:
        """Return the variance of the smooth part g."""
        return self.smooth * self.total

    @property
    def v(self) -> float:
        """Return the variance of the effect e of a single prompt."""
        return (1.0 - self.smooth) * self.total


@dataclass(frozen=True)
class Background:
    """What logged policies tell about g: with phi(x) = L^-1 k(inducing, x), g = phi . u, u ~ N(mean, cov)."""

    inducing_MF: Float32
    """Unscaled features of the inducing prompts."""
    weight_M: Float32
    """L^-T mean: the mean of g(x) is weight . k(inducing, x)."""
    known_MM: Float32
    """R' L^-1 with R R' = I - cov: the covariance that is left is k(x, x') - (known k) . (known k')."""


@dataclass
class GaussianProcess(Head):
    """The head of this module. `inducing` is M, the largest number of inducing prompts; `power` is gamma."""

    layout: Layout
    inducing: int = 1024
    power: float = 1.0
    hyper: Hyper = field(default_factory=Hyper)
    scaling: Scaling | None = None
    background: Background | None = None
    kind = "gp"

    def fit(self, records: Sequence[Context]) -> None:
        """Condition on logged policies.

        Raises:
            RecordError: there are no rows.
        """
        rows = [record for record in records if len(record)]
        if not rows:
            raise RecordError("head gp: no rows to fit on; give the record of at least one policy")
        self.scaling = Scaling.of(np.concatenate([r.features_NF for r in rows]), self.layout)
        pooled, residual_B = _centred(rows)
        some = np.random.default_rng(0).permutation(len(pooled))[:SAMPLE]
        self.hyper = self._search(pooled.take(some), residual_B[some], moments(rows), offset=False)
        self.background = self._condition(pooled, residual_B)

    def predict(self, context: Context, queries_QF: Float32, prompt_Q: Int64 | None = None) -> Prediction:
        """Return posterior mean and standard deviation of each query's pass rate."""
        ready = self.background is not None or self.scaling is not None
        head = self if ready else self.adapted(context)
        return head._posterior(context, queries_QF, prompt_Q)

    def adapted(self, context: Context, hyper: Hyper | None = None) -> GaussianProcess:
        """Return an unfitted head with scaling and (unless `hyper` is given) hyperparameters of a context."""
        if not len(context):
            return replace(self, hyper=hyper or Hyper())
        head = replace(self, scaling=Scaling.of(context.features_NF, self.layout))
        head.hyper = hyper or head._search(context, context.rate_N - 0.5, moments([context]), offset=True)
        return head

    # -- hyperparameters -------------------------------------------------------------------------

    def _search(self, rows: Context, residual_N: Float64, start: Hyper, offset: bool) -> Hyper:
        """Raise the marginal likelihood coordinate by coordinate: length scales, then the smooth share."""
        same_NN = (rows.prompt_N[:, None] == rows.prompt_N[None, :]).astype(np.float64)

        def best(tried: list[Hyper]) -> Hyper:
            values = []
            for hyper in tried:
                z_NF = self._scaled(rows.features_NF, hyper)
                cov_NN = hyper.a * np.exp(-0.5 * squared_distances(z_NF, z_NF)).astype(np.float64)
                cov_NN += hyper.v * same_NN + OFFSET_VARIANCE * offset
                cov_NN[np.diag_indices(len(rows))] += hyper.within / rows.count_N
                values.append(_log_likelihood(cov_NN, residual_N))
            return tried[int(np.argmax(values))]

        found = best([replace(start, states=a, statistics=b) for a, b in _scales(self.layout)])
        return best([replace(found, smooth=share) for share in SMOOTH])

    # -- conditioning ----------------------------------------------------------------------------

    def _condition(self, rows: Context, residual_B: Float64) -> Background:
        hyper = self.hyper
        chosen = np.random.default_rng(1).permutation(len(rows))
        _, first = np.unique(rows.prompt_N[chosen], return_index=True)
        inducing_MF = rows.features_NF[chosen[np.sort(first)][: self.inducing]]
        z_MF = self._scaled(inducing_MF, hyper)
        kernel_MM = self._kernel(z_MF, z_MF).astype(np.float64)
        kernel_MM[np.diag_indices(len(z_MF))] += 1e-4 * hyper.a
        chol_MM = np.linalg.cholesky(kernel_MM)
        kernel_MB = self._kernel(z_MF, self._scaled(rows.features_NF, hyper)).astype(np.float64)
        phi_MB = solve_triangular(chol_MM, kernel_MB, lower=True, check_finite=False)
        noise_B = hyper.v + hyper.within / rows.count_N
        # The part of g that inducing prompts do not explain counts as noise of that row (FITC).
        noise_B = noise_B + np.maximum(hyper.a - (phi_MB**2).sum(0), 0.0)
        weighted_MB = phi_MB * (self.power / noise_B)
        precision_MM = weighted_MB @ phi_MB.T
        precision_MM[np.diag_indices(len(z_MF))] += 1.0
        factor = cho_factor(precision_MM, lower=True)
        mean_M = cho_solve(factor, weighted_MB @ residual_B)
        lost_MM = np.eye(len(z_MF)) - cho_solve(factor, np.eye(len(z_MF)))
        lost_MM[np.diag_indices(len(z_MF))] += 1e-7
        shrink_MM = np.linalg.cholesky((lost_MM + lost_MM.T) / 2.0)
        weight_M = solve_triangular(chol_MM, mean_M, lower=True, trans=1)
        known_MM = solve_triangular(chol_MM, shrink_MM, lower=True, trans=1).T
        return Background(inducing_MF, weight_M.astype(np.float32), known_MM.astype(np.float32))

    def _posterior(self, context: Context, queries_QF: Float32, prompt_Q: Int64 | None) -> Prediction:
        hyper = self.hyper
        all_F = np.concatenate([context.features_NF, queries_QF])
        n = len(context)
        z = self._scaled(all_F, hyper)
        cov_NA = self._kernel(z[:n], z).astype(np.float64) + OFFSET_VARIANCE
        mean_A = np.full(len(z), 0.5)
        var_A = np.full(len(z), OFFSET_VARIANCE + hyper.total)
        if self.background is not None:
            back = self.background
            kernel_MA = self._kernel(self._scaled(back.inducing_MF, hyper), z)
            known_MA = back.known_MM @ kernel_MA
            cov_NA -= known_MA[:, :n].T @ known_MA
            var_A -= (known_MA**2).sum(0)
            mean_A += back.weight_M @ kernel_MA
        mean_Q, var_Q = mean_A[n:], var_A[n:]
        if n:
            seen_Q = np.full(len(queries_QF), -1) if prompt_Q is None else prompt_Q
            cov_NA += hyper.v * (context.prompt_N[:, None] == np.concatenate([context.prompt_N, seen_Q]))
            cov_NN = cov_NA[:, :n].copy()
            cov_NN[np.diag_indices(n)] += hyper.within / context.count_N
            chol_NN = np.linalg.cholesky(cov_NN)
            half_NQ = solve_triangular(chol_NN, cov_NA[:, n:], lower=True, check_finite=False)
            half_N = solve_triangular(chol_NN, context.rate_N - mean_A[:n], lower=True, check_finite=False)
            mean_Q, var_Q = mean_Q + half_N @ half_NQ, var_Q - (half_NQ**2).sum(0)
        return Prediction(
            np.clip(mean_Q, LIMIT, 1.0 - LIMIT).astype(np.float64), np.sqrt(np.maximum(var_Q, 1e-9))
        )

    def _scaled(self, features_NF: Float32, hyper: Hyper) -> Float32:
        if self.scaling is None:
            return features_NF
        return self.scaling(features_NF, hyper.states, hyper.statistics)

    def _kernel(self, z_AF: Float32, z_BF: Float32) -> Float32:
        """Return the (A, B) covariance of g."""
        distance_AB = squared_distances(z_AF, z_BF)
        distance_AB *= -0.5
        kernel_AB: Float32 = np.exp(distance_AB, out=distance_AB)
        kernel_AB *= self.hyper.a
        return kernel_AB

    # -- saving ----------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        if self.background is None or self.scaling is None:
            raise RecordError("head gp: was not fitted, so there is nothing to save; fit it first")
        arrays = {
            "background.inducing_MF": self.background.inducing_MF,
            "background.weight_M": self.background.weight_M,
            "background.known_MM": self.background.known_MM,
            "centre_F": self.scaling.centre_F,
            "scale_F": self.scaling.scale_F,
        }
        return {"hyper": asdict(self.hyper), "power": self.power}, arrays

    def load(self, settings: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        self.hyper = Hyper(**settings["hyper"])
        self.power = float(settings["power"])
        self.scaling = Scaling(arrays["centre_F"], arrays["scale_F"], self.layout.states)
        names = ("background.inducing_MF", "background.weight_M", "background.known_MM")
        self.background = Background(*(arrays[name] for name in names))


def moments(records: Iterable[Context]) -> Hyper:
    """Estimate the spread of pass rates between prompts and the variance of one rollout, by moments.

    A mean m of k 0/1 rollouts has E[m (1 - m)] = (1 - 1/k) w and Var(m) = spread + w / k. Four
    pseudo-prompts, uniform on [0, 1], keep the estimates from small or constant records away from 0.
    """
    spread = weight = within = within_weight = 0.0
    for record in records:
        m_N, k_N = record.rate_N, record.count_N
        spread += float(((m_N - m_N.mean()) ** 2).sum())
        weight += max(0.0, len(m_N) - 1.0)
        several_N = k_N > 1.0
        within += float((m_N * (1.0 - m_N))[several_N].sum())
        within_weight += float((1.0 - 1.0 / k_N[several_N]).sum())
    k = float(np.mean([np.mean(1.0 / r.count_N) for r in records])) if weight else 1.0
    w = (within + 4.0 / 6.0) / (within_weight + 4.0)
    observed = spread / weight if weight else OFFSET_VARIANCE
    total = (max(observed - w * k, 0.0) * weight + 4.0 * OFFSET_VARIANCE) / (weight + 4.0)
    return Hyper(total=total, within=w)


def _centred(records: Sequence[Context]) -> tuple[Context, Float64]:
    """Return all rows as one context, and their differences from their own policy's mean."""
    pooled = Context(
        np.concatenate([r.features_NF for r in records]),
        np.concatenate([r.rate_N for r in records]),
        np.concatenate([r.count_N for r in records]),
        np.concatenate([r.prompt_N for r in records]),
    )
    return pooled, np.concatenate([r.rate_N - r.rate_N.mean() for r in records])


def _scales(layout: Layout) -> list[tuple[float, float]]:
    """List pairs of length scales to try; a part that is missing needs no scale."""
    states = STATES if layout.layers else (1.0,)
    statistics = STATISTICS if layout.statistics else (1.0,)
    return list(product(states, statistics))


def _log_likelihood(cov_NN: Float64, residual_N: Float64) -> float:
    chol_NN = np.linalg.cholesky(cov_NN)
    half_N = solve_triangular(chol_NN, residual_N, lower=True, check_finite=False)
    return float(-0.5 * half_N @ half_N - np.log(np.diag(chol_NN)).sum())
