"""The columns of a feature vector, and how they are brought to one scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainables.value_models.heads.base import Float32


@dataclass(frozen=True)
class Layout:
    """Widths of an encoder's blocks: n-grams, hidden layers, and (with `statistics`) text statistics."""

    blocks: tuple[int, ...]
    statistics: bool

    @property
    def layers(self) -> tuple[int, ...]:
        """Return the widths of all blocks but the statistics."""
        return self.blocks[:-1] if self.statistics else self.blocks

    @property
    def states(self) -> int:
        """Return the number of leading columns that are n-grams or hidden states."""
        return sum(self.layers)

    @property
    def width(self) -> int:
        """Return the number of columns."""
        return sum(self.blocks)

    def top(self, features_NF: Float32) -> Float32:
        """Return the columns of the encoder's last layer, or the statistics if there is no layer."""
        if not self.layers:
            return features_NF
        return features_NF[:, self.states - self.layers[-1] : self.states]


@dataclass(frozen=True)
class Scaling:
    """The map x -> (x - centre) * scale.

    Each hidden layer (and the n-grams) is divided by its root mean square deviation, and all of them together
    get weight one; the columns of the statistics are standardised one by one, and together get weight one. So
    two random prompts lie at a squared distance of about 2 in either part. A column that never varies is
    dropped.
    """

    centre_F: Float32
    scale_F: Float32
    states: int

    @staticmethod
    def of(features_NF: Float32, layout: Layout) -> Scaling:
        """Fit the scaling to rows; with fewer than two rows nothing is scaled."""
        width, states = features_NF.shape[1], layout.states
        if len(features_NF) < 2:
            return Scaling(np.zeros(width, np.float32), np.ones(width, np.float32), states)
        sd_F = features_NF.std(0)
        scale_F = np.zeros(width, np.float32)
        first = 0
        for block in layout.layers:
            spread = float(np.sqrt((sd_F[first : first + block] ** 2).sum() * len(layout.layers)))
            scale_F[first : first + block] = 1.0 / spread if spread > 1e-6 else 0.0
            first += block
        varied_S = sd_F[states:] > 1e-6
        scale_F[states:][varied_S] = 1.0 / (np.sqrt(varied_S.sum()) * sd_F[states:][varied_S])
        return Scaling(features_NF.mean(0), scale_F, states)

    def __call__(self, features_NF: Float32, states: float, statistics: float) -> Float32:
        """Scale rows; `states` and `statistics` are the length scales of the two parts."""
        factor_F = self.scale_F.copy()
        factor_F[: self.states] /= states
        factor_F[self.states :] /= statistics
        scaled: Float32 = (features_NF - self.centre_F) * factor_F
        return scaled
