"""Prior `strata`: the running pass rate of each declared stratum."""

from __future__ import annotations

from typing import Literal

from trainables.strategies.priors.running import RunningPrior


class StrataPrior(RunningPrior):
    """Running pass rate of each declared stratum, from past steps only."""

    type: Literal["strata"] = "strata"
