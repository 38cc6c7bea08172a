"""Fusion `leave_one_out`: the mean of the group's other rollouts (RLOO, arXiv 2402.14740, eq. 8)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from trainables.strategies.fusion.base import Baseline, Fusion, masked
from trainables.strategies.groups import Groups
from trainables.strategies.members.base import Member
from trainables.strategies.value_estimate import ValueEstimate


class LeaveOneOut(Member, Fusion):
    """Mean of the group's other rollouts (RLOO)."""

    type: Literal["leave_one_out"] = "leave_one_out"

    leaves_out: ClassVar[bool] = True
    needs_pair: ClassVar[bool] = True

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        count_N, sum_N = groups.others()
        return masked(sum_N / np.maximum(count_N, 1.0), count_N >= 1, np.ones(groups.prompts))
