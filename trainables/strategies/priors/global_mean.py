"""Prior `global`: one running mean over all prompts (EBPO, arXiv 2602.05165)."""

from __future__ import annotations

from typing import ClassVar, Literal

from trainables.strategies.priors.running import RunningPrior


class GlobalPrior(RunningPrior):
    """One running mean over all prompts, with the spread between and within prompts (EBPO, control)."""

    type: Literal["global"] = "global"

    per_stratum: ClassVar[bool] = False
