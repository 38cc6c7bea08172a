"""No prior at all: the group speaks for itself."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.strategies.batch import Batch
from trainables.strategies.priors.base import Prior
from trainables.strategies.scale import UNIT, Scale


@dataclass
class NoPrior(Prior):
    scale: Scale = UNIT

    def predict(self, batch: Batch) -> None:
        return None
