"""Fusion `length_weighted`: the length-weighted group mean (OPO, arXiv 2505.23585, section 3.2)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from trainables.errors import StrategyError
from trainables.strategies.fusion.base import Baseline, Fusion, masked
from trainables.strategies.groups import Groups
from trainables.strategies.members.base import Member
from trainables.strategies.value_estimate import ValueEstimate


class LengthWeighted(Member, Fusion):
    """Length-weighted group mean (OPO, arXiv 2505.23585).

    b = sum(l r) / sum(l) over the group, l = response tokens: the minimum-variance baseline if the squared
    gradient of a response grows with its length.
    """

    type: Literal["length_weighted"] = "length_weighted"
    leave_one_out: bool = False

    needs_pair: ClassVar[bool] = True

    @property
    def leaves_out(self) -> bool:  # type: ignore[override]  # by a parameter, not by class
        return self.leave_one_out

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        if groups.length_N is None:
            raise StrategyError("fusion: 'length_weighted' needs response lengths; give Groups a length_N")
        length_N = np.where(groups.mask_N, groups.length_N, 0).astype(np.float64)
        top_N = groups.total(length_N * groups.value_N)[groups.prompt_N]
        bottom_N = groups.total(length_N)[groups.prompt_N]
        if self.leave_one_out:
            top_N, bottom_N = top_N - length_N * groups.value_N, bottom_N - length_N
        pair_N = (groups.count_P >= 2)[groups.prompt_N] & groups.mask_N & (bottom_N > 0)
        mean_N = np.divide(top_N, bottom_N, out=np.zeros(len(top_N)), where=bottom_N > 0)
        return masked(mean_N, pair_N, np.ones(groups.prompts))
