"""Prior `none`: the group speaks for itself."""

from __future__ import annotations

from typing import Literal

from trainables.strategies.batch import Batch
from trainables.strategies.priors.base import Prior, PriorMember
from trainables.strategies.scale import Scale


class NoPrior(PriorMember, Prior):
    """No prior at all."""

    type: Literal["none"] = "none"

    def begin(self, scale: Scale) -> NoPrior:
        return self

    def predict(self, batch: Batch) -> None:
        return None
