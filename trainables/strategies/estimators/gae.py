"""Estimator `gae`: generalised advantage estimation (arXiv 1506.02438, eq. 16)."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from trainables.strategies.batch import FloatArray, IntArray
from trainables.strategies.estimators.base import Estimator, PerToken
from trainables.strategies.members.base import Member, Point
from trainables.strategies.priors.base import PriorMember


class Gae(Member, Estimator):
    """Generalised advantage estimation over token values (arXiv 1506.02438), discount 1.

    A_t = sum_l lambda^l delta_{t+l}; the target of a value is A_t + V_t.
    """

    type: Literal["gae"] = "gae"
    lam: Annotated[float, Field(ge=0, le=1)] = 1.0
    length_adaptive: Annotated[float, Field(ge=0)] = 0.0
    """VAPO's a in lambda = 1 - 1/(a T) (arXiv 2504.05118, section 4.2.2), limited to [0, 1] because it is
    negative below 1/a tokens; 0 = off, `lam` holds for every length."""

    def check(self, beside: Point) -> None:
        prior = beside.prior
        if beside.fusion.type != "prior_only" or (isinstance(prior, PriorMember) and not prior.gives_tokens):
            raise ValueError(
                f"estimator: 'gae' needs token values, got prior {prior.type!r} under fusion "
                f"{beside.fusion.type!r}; set prior to critic and fusion to prior_only"
            )
        if beside.normaliser.type == "group_std":
            raise ValueError(
                "normaliser: 'group_std' under estimator 'gae'; set normaliser to batch_std or none"
            )

    def tokens(self, reward_N: FloatArray, values: PerToken) -> tuple[PerToken, PerToken]:
        length_N = np.array([len(v) for v in values], dtype=np.int64)
        steps = int(length_N.max(initial=0))
        value_NT = np.zeros((len(values), steps + 1))
        inside_NT = np.arange(steps + 1) < length_N[:, None]
        value_NT[inside_NT] = np.concatenate(values) if values else np.zeros(0)
        delta_NT = np.where(inside_NT[:, :-1], value_NT[:, 1:] - value_NT[:, :-1], 0.0)
        ends = np.flatnonzero(length_N)
        delta_NT[ends, length_N[ends] - 1] += reward_N[ends]
        lam_N = self._lam(length_N)
        advantage_NT = np.zeros_like(delta_NT)
        carry_N = np.zeros(len(values))
        for t in range(steps - 1, -1, -1):
            advantage_NT[:, t] = carry_N = delta_NT[:, t] + lam_N * carry_N
        advantages = tuple(advantage_NT[n, :length] for n, length in enumerate(length_N))
        return advantages, tuple(a + v for a, v in zip(advantages, values, strict=True))

    def _lam(self, length_N: IntArray) -> FloatArray:
        if self.length_adaptive == 0.0:
            return np.full(len(length_N), self.lam)
        return np.clip(1.0 - 1.0 / (self.length_adaptive * np.maximum(length_N, 1)), 0.0, 1.0)
