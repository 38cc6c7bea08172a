"""The probe that runs: a buffer of states, and the regressions fitted on it.

Each rollout's states are read by a regression that earlier steps fitted, so a value estimate knows nothing
of this step's rewards. A rollout's baseline must come from the *other* rollouts' states (fusions that leave
one out): its own states depend on its own tokens, and reading them would bias the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from trainables.errors import DivergedError, StrategyError
from trainables.strategies.batch import Batch, BoolArray, Features, FloatArray, IntArray, Needs, Stats
from trainables.strategies.priors.base import Prior
from trainables.strategies.priors.probing.buffer import Rows, finite_N, rows_of
from trainables.strategies.priors.probing.layers import FEWEST, LayerSurvey, halves
from trainables.strategies.priors.probing.regression import Part, Projection, Regression
from trainables.strategies.scale import UNIT, Scale
from trainables.strategies.value_estimate import ValueEstimate

if TYPE_CHECKING:
    from trainables.strategies.priors.probe import ProbePrior

POOLED = -1
"""Key of the probe over all strata."""


@dataclass
class Probe(Prior):
    """Estimates what the probe reads from a rollout's states, clipped to the reward range; `start` unfitted.

    State: the buffer (and, where it refits incrementally, the projections): the probe follows from it.
    """

    config: ProbePrior
    scale: Scale = UNIT
    rows: Rows | None = None
    observed: int = 0
    """Steps learned from."""
    layers: LayerSurvey | None = None
    projections: dict[int, Projection] = field(default_factory=dict)
    _regressions: dict[int, Regression] = field(default_factory=dict)

    @property
    def reads_own(self) -> bool:  # type: ignore[override]  # by a parameter, not by class
        return self.config.states == "trajectory"

    def needs(self) -> Needs:
        return Needs(features=self.config.features())

    def predict(self, batch: Batch) -> ValueEstimate:
        features = _required(batch)
        good_N = finite_N(features)
        self._check_rate(good_N)
        stratum_N = batch.stratum_P[batch.prompt_N]
        unit_N = np.full(batch.rollouts, np.nan)
        unit_N[good_N] = self._read(self._parts_of(features.take(np.flatnonzero(good_N))), stratum_N[good_N])
        mean_N = self.scale.reward(unit_N)
        silent_N = None if good_N.all() else ~good_N
        if self.config.states == "trajectory":
            return ValueEstimate(mean_N=mean_N, silent_N=silent_N)
        mean_P = np.full(batch.prompts, np.nan)
        # The prompt's states are the same before each of its rollouts: the first readable one speaks.
        rows = np.flatnonzero(good_N)[::-1]
        mean_P[batch.prompt_N[rows]] = mean_N[rows]
        return ValueEstimate(mean_P=mean_P, silent_P=np.asarray(np.isnan(mean_P)), silent_N=silent_N)

    def observe(self, batch: Batch, stats: Stats) -> None:
        features = _required(batch)
        before = self.block(features)
        if features.survey_NL2K is not None:
            if self.layers is None:
                blocks = features.survey_NL2K.shape[1]
                self.layers = self._survey(features.layer, np.zeros(blocks))
            self.layers.learn(batch, features)
        new = rows_of(batch, features, self.scale, per_prompt=self.config.states == "prompt")
        old = new.take(slice(0, 0)) if self.rows is None else self.rows
        self.rows = old.push(new, self.config.buffer)
        fresh = self.config.refit == "scratch" or self.observed % self.config.refresh == 0
        self.observed += 1
        self._fit(keep_projections=not fresh and self.block(features) == before)

    def metrics(self, batch: Batch) -> dict[str, float]:
        features = _required(batch)
        notes = {
            "probe_rows": float(0 if self.rows is None else len(self.rows)),
            "bad_features": float(1.0 - finite_N(features).mean()),
            "probe_layer": float(self.block(features)),
        }
        if self.layers is not None and features.survey_NL2K is not None:
            notes |= self.layers.metrics(batch, features)
        return notes

    def block(self, features: Features) -> int:
        """Return the decoder block that is read at the moment."""
        return self.layers.best if self.config.auto and self.layers is not None else features.layer

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"observed": self.observed}
        if self.rows is not None:
            state["rows"] = self.rows.state_dict()
        if self.layers is not None:
            state["layers"] = {"best": self.layers.best, "error_L": self.layers.error_L.copy()}
        if self.config.refit == "incremental":
            state["projections"] = [[key, made.state_dict()] for key, made in self.projections.items()]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.observed = int(state["observed"])
        self.rows = Rows(**state["rows"]) if "rows" in state else None
        found = state.get("layers")
        self.layers = self._survey(int(found["best"]), found["error_L"].copy()) if found else None
        kept = state.get("projections", [])
        self.projections = {int(key): Projection.from_state(made) for key, made in kept}
        self._fit(keep_projections=self.config.refit == "incremental")

    # -- internals -----------------------------------------------------------------------------------

    def _survey(self, best: int, error_L: FloatArray) -> LayerSurvey:
        return LayerSurvey(self.config, best, error_L, self.scale)

    def _fit(self, *, keep_projections: bool) -> None:
        self._regressions = {}
        if not keep_projections:
            self.projections = {}
        if self.rows is None:
            return
        if self.layers is not None:
            self.layers.fit(self.rows)
        for key, rows in self._shares(self.rows):
            parts = self._parts_of_rows(rows)
            if key not in self.projections:
                self.projections[key] = Projection.fit(parts, self.config.components(), self.config.order)
            columns = self.projections[key].apply(parts)
            self._regressions[key] = Regression.fit(
                columns, rows.rate_R, self.config.model, self.config.penalty
            )

    def _shares(self, rows: Rows) -> Iterator[tuple[int, Rows]]:
        """Return the rows of each probe: all of them, and each stratum that has enough."""
        if len(rows) < FEWEST:
            return
        yield POOLED, rows
        if self.config.per_stratum:
            for stratum, count in zip(*np.unique(rows.stratum_R, return_counts=True), strict=True):
                if count >= FEWEST:
                    yield int(stratum), rows.take(rows.stratum_R == stratum)

    def _read(self, parts: list[Part], stratum_N: IntArray) -> FloatArray:
        """Return pass rates in [0, 1]; a stratum without a probe of its own is read by the one for all."""
        unit_N = np.full(len(stratum_N), self.config.start)
        if POOLED not in self._regressions:
            return unit_N
        own_N = np.where(np.isin(stratum_N, list(self._regressions)), stratum_N, POOLED)
        for key in np.unique(own_N).tolist():
            mine = own_N == key
            columns = self.projections[key].apply([part[mine] for part in parts])
            unit_N[mine] = self._regressions[key].predict(columns)
        return unit_N

    def _parts_of(self, features: Features) -> list[Part]:
        prompt, response = features.prompt_NF, features.response_NF
        if self.config.auto and features.survey_NL2K is not None:
            prompt, response = halves(features.survey_NL2K[:, self.block(features)])
        return [prompt] if self.config.states == "prompt" else [prompt, response, features.entropy_N3]

    def _parts_of_rows(self, rows: Rows) -> list[Part]:
        prompt, response = rows.prompt_RF, rows.response_RF
        if self.config.auto and self.layers is not None:
            prompt, response = halves(rows.survey_RL2K[:, self.layers.best])
        return [prompt] if self.config.states == "prompt" else [prompt, response, rows.entropy_R3]

    def _check_rate(self, good_N: BoolArray) -> None:
        bad = int((~good_N).sum())
        if bad > self.config.max_bad_features * len(good_N):
            raise DivergedError(
                f"strategy.prior: the hidden states of {bad} of {len(good_N)} rollouts are NaN or infinite, "
                f"more than max_bad_features={self.config.max_bad_features:g}; lower learner.lr or "
                f"change the layer"
            )


def _required(batch: Batch) -> Features:
    if batch.features is None:
        raise StrategyError("strategy.prior: 'probe' reads hidden states, and this batch has none")
    return batch.features
