"""Every decoder block's probe beside each other, on the projected states that the survey keeps of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from trainables.strategies.batch import Batch, Features, FloatArray
from trainables.strategies.diagnostics import forecast
from trainables.strategies.groups import Groups
from trainables.strategies.priors.probing.buffer import Rows, finite_N
from trainables.strategies.priors.probing.regression import Part, Projection, Regression
from trainables.strategies.scale import UNIT, Scale
from trainables.strategies.value_estimate import ValueEstimate

if TYPE_CHECKING:
    from trainables.strategies.priors.probe import ProbePrior

KEEP = 0.9
"""Share of the old error that survives a step."""
FEWEST = 16
"""Rows before anything is fitted."""


@dataclass
class LayerSurvey:
    """Errors of all blocks on rewards that no fit had seen, and the block to read next (`best`)."""

    config: ProbePrior
    best: int
    """The block with the smallest trailing mean squared error; the default one before there is any."""
    error_L: FloatArray
    """Decayed sum of mean squared errors, one a block."""
    scale: Scale = UNIT
    _fits: list[tuple[Projection, Regression]] = field(init=False, default_factory=list)

    def fit(self, rows: Rows) -> None:
        """Refit all blocks from scratch: standardised ridge, no PCA."""
        self._fits = []
        if len(rows) < FEWEST:
            return
        for block in range(len(self.error_L)):
            parts = self._parts(rows.survey_RL2K[:, block], rows.entropy_R3)
            projection = Projection.fit(parts, [0] * len(parts), self.config.order)
            columns = projection.apply(parts)
            self._fits.append(
                (projection, Regression.fit(columns, rows.rate_R, "ridge", self.config.penalty))
            )

    def learn(self, batch: Batch, features: Features) -> None:
        """Take a step's errors, under the fits from before it, into the trailing ones and choose anew."""
        if not self._fits:
            return
        groups = Groups.of(batch, self.scale)
        estimates = [self._estimate(block, batch, features) for block in range(len(self.error_L))]
        used_N = groups.mask_N & np.isfinite(estimates).all(axis=0)
        if not used_N.any():
            return
        mse_L = np.array([np.square(groups.value_N - estimate)[used_N].mean() for estimate in estimates])
        self.error_L = KEEP * self.error_L + mse_L
        self.best = int(self.error_L.argmin())

    def metrics(self, batch: Batch, features: Features) -> dict[str, float]:
        """Return `layer_mae/<block>` and `layer_pearson/<block>` of this step, out of sample."""
        notes: dict[str, float] = {}
        groups = Groups.of(batch, self.scale)
        for block in range(len(self._fits)):
            found = forecast(self._estimate(block, batch, features), groups, "layer")
            notes |= {f"{name}/{block:02d}": value for name, value in found.items()}
        return notes

    def _estimate(self, block: int, batch: Batch, features: Features) -> FloatArray:
        """Return the block's value estimate of each rollout, from the group's other rollouts, (N,)."""
        if features.survey_NL2K is None:
            raise ValueError("the survey was fitted and is now missing from the features")
        good_N = finite_N(features)
        projection, regression = self._fits[block]
        unit_N = np.full(batch.rollouts, np.nan)
        parts = self._parts(features.survey_NL2K[good_N, block], features.entropy_N3[good_N])
        unit_N[good_N] = regression.predict(projection.apply(parts))
        own_N = self.scale.reward(unit_N)
        if self.config.states == "prompt":
            return own_N
        silent_N = None if good_N.all() else np.asarray(~good_N)
        groups = Groups.of(batch, self.scale)
        return ValueEstimate(mean_N=own_N, silent_N=silent_N).for_rollouts(groups, leave_one_out=True)

    def _parts(self, states_N2K: npt.NDArray[np.float16], entropy_N3: Part) -> list[Part]:
        prompt, response = halves(states_N2K)
        return [prompt] if self.config.states == "prompt" else [prompt, response, entropy_N3]


def halves(states_N2K: npt.NDArray[np.float16]) -> tuple[Part, Part]:
    """Return prompt and reasoning part of a block in the survey, in single precision."""
    return states_N2K[:, 0].astype(np.float32), states_N2K[:, 1].astype(np.float32)
