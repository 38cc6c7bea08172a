"""A strategy whose advantages no float32 gradient can hold."""

from __future__ import annotations

import numpy as np
from unlearn import Unlearn

from trainables.strategies.batch import Batch, Scores


class Diverges(Unlearn):
    def score(self, batch: Batch) -> Scores:
        return Scores(advantage_N=1e30 * (1 + batch.reward_N), weight_N=batch.valid_N.astype(np.float64))
