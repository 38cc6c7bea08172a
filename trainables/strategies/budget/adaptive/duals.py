"""What the budget `cero` learns: Beta counts and a dual variable per prompt, and the price of a rollout."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from trainables.strategies.batch import Batch, BoolArray, FloatArray, IntArray, Requests, Stats
from trainables.strategies.budget.base import Budget, Outlook, Progress, drawn
from trainables.strategies.budget.spend import spend
from trainables.strategies.groups import Groups
from trainables.strategies.scale import Scale, verified_N

if TYPE_CHECKING:
    from trainables.strategies.budget.adaptive.cero import Cero

MOST = 0.25
"""Largest worth of a rollout: p (1 - p) at one half."""
START = math.exp(-1.0) / 6.0
"""Dual of a prompt nothing is known of, and price at the start: v exp(-1), v = 1/6 under a uniform prior."""


def worth(right_P: FloatArray, wrong_P: FloatArray) -> FloatArray:
    """Return E[p (1 - p)] under Beta(1 + right, 1 + wrong), (P,)."""
    a_P, b_P = 1.0 + right_P, 1.0 + wrong_P
    return np.asarray(a_P * b_P / ((a_P + b_P) * (a_P + b_P + 1.0)))


@dataclass
class Duals(Budget):
    """Prompt i asks n = low, group_size or high rollouts: mu below, at or above the price lam.

    "At" is within one step eta = rate / (4 high) of a single rollout, so that a prompt nothing is known of
    asks group_size. After the step, with n rollouts drawn of the prompt:

        mu  <- mu - eta (n - m(mu))  within [0, v],   m(mu) = group_size log(v / mu)  within [0, high]
        lam <- lam + eta (mean asked - group_size)  within [0, 1/4]

    m(mu) is a visit's part of the x where f'(x) = v exp(-x / t) equals mu. Both start at v exp(-1), v = 1/6:
    there m(mu) = group_size. What is asked beyond the step's rollouts is cut where mu is smallest. What is
    left stays unspent, and the run gets more steps out of the same budget. State: one column per prompt.
    """

    config: Cero
    prompt_M: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Prompts met, ascending."""
    state_3M: FloatArray = field(default_factory=lambda: np.zeros((3, 0)))
    """Right and wrong answers seen, and mu."""
    price: float = START
    """lam, in units of worth per rollout."""

    remembers: ClassVar[bool] = True

    @property
    def eta(self) -> float:
        return self.config.rate * MOST / self.config.high

    def select(self, outlook: Outlook) -> Requests:
        prompts = outlook.prompts(self.config.group_size)
        prompt_C = outlook.pool.prompt_C[:prompts]
        mu_C, spare = self._columns(prompt_C)[2], outlook.rollout_budget.rollouts
        wish_C = self._asked(mu_C) - self.config.low
        spare -= prompts * (self.config.low + outlook.overhead)
        return Requests.samples(prompt_C, self.config.low + spend(mu_C, wish_C, max(spare, 0)))

    def observe(self, batch: Batch, stats: Stats, scale: Scale) -> None:
        config, used_N = self.config, verified_N(batch)
        unit_N = np.where(used_N, scale.unit(batch.correct_N), 0.0)
        groups = Groups(batch.prompt_N, unit_N, batch.prompts, used_N)
        right_P, wrong_P, mu_P = self._columns(batch.prompt_id_P)
        asked_P, drawn_P = self._asked(mu_P), drawn(batch)
        right_P, wrong_P = right_P + groups.sum_P, wrong_P + groups.count_P - groups.sum_P
        v_P = worth(right_P, wrong_P)
        planned_P = np.minimum(config.group_size * np.log(v_P / np.maximum(mu_P, 1e-300)), config.high)
        mu_P = np.clip(mu_P - self.eta * (drawn_P - np.maximum(planned_P, 0.0)), 0.0, v_P)
        self._store(batch.prompt_id_P, np.stack([right_P, wrong_P, mu_P]))
        excess = float(asked_P.mean()) - config.group_size
        self.price = float(np.clip(self.price + self.eta * excess, 0.0, MOST))

    def notes(self, progress: Progress) -> dict[str, float]:
        """Return the price of a rollout, and the share of the step's prompts that asked for the most."""
        asked_P = self._asked(self._columns(progress.batch.prompt_id_P)[2])
        most = float((asked_P == self.config.high).mean()) if len(asked_P) else 0.0
        return {"rollout_price": self.price, "asked_most": most}

    def state_dict(self) -> dict[str, Any]:
        return {
            "prompt_M": self.prompt_M.copy(),
            "state_3M": self.state_3M.copy(),
            "price": float(self.price),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.prompt_M = np.asarray(state["prompt_M"], np.int64).copy()
        self.state_3M = np.asarray(state["state_3M"], np.float64).reshape(3, -1).copy()
        self.price = float(state["price"])

    def _asked(self, mu_P: FloatArray) -> IntArray:
        margin_P, config = mu_P - self.price, self.config
        asked_P = np.where(margin_P > self.eta, config.high, config.group_size)
        return np.where(margin_P < -self.eta, config.low, asked_P).astype(np.int64)

    def _columns(self, prompt_P: IntArray) -> FloatArray:
        """Return right, wrong and mu, (3, P); of a prompt never met the start."""
        row_P = np.searchsorted(self.prompt_M, prompt_P)
        known_P: BoolArray = np.isin(prompt_P, self.prompt_M)
        found_3P = np.zeros((3, len(prompt_P)))
        found_3P[2] = START
        found_3P[:, known_P] = self.state_3M[:, row_P[known_P]]
        return found_3P

    def _store(self, prompt_P: IntArray, state_3P: FloatArray) -> None:
        merged = np.union1d(self.prompt_M, prompt_P)
        state_3M = np.zeros((3, len(merged)))
        state_3M[:, np.searchsorted(merged, self.prompt_M)] = self.state_3M
        state_3M[:, np.searchsorted(merged, prompt_P)] = state_3P
        self.prompt_M, self.state_3M = merged, state_3M
