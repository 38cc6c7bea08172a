"""Prior `critic`: a critic that the learner trains, per token (PPO, arXiv 1707.06347) or prompt (SPPO)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from trainables.errors import StrategyError
from trainables.strategies.batch import Batch, CriticNeeds, FloatArray, Needs, Stats
from trainables.strategies.members.base import Point, Positive
from trainables.strategies.priors.base import Prior, PriorMember
from trainables.strategies.scale import UNIT, Scale, verified_N
from trainables.strategies.value_estimate import ValueEstimate


class CriticPrior(PriorMember):
    """A critic of the policy's architecture, which the learner trains beside it (PPO, SPPO)."""

    gives_tokens: ClassVar[bool] = True

    type: Literal["critic"] = "critic"
    level: Literal["token", "prompt"] = "token"
    """`token`: a value for every state, fitted by squared error. `prompt`: one value per prompt, the sigmoid
    of a head on its last token, fitted by cross-entropy (SPPO); rewards in [0, 1] only."""
    lr: Positive = 1e-5
    """Learning rate of the critic."""
    mini_batches: Annotated[int, Field(ge=1)] = 1
    """Updates of the critic per step."""
    warmup_updates: Annotated[int, Field(ge=0)] = 0
    """Steps that train the critic only; their rollouts are paid for."""
    start: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Value of every state before any update, as a share of the reward range."""
    clip: Positive | None = None
    """PPO's clipped value loss: the larger of the squared errors of the value and of the value held within
    this distance (a share of the reward range) of what it was before the step. null = not clipped."""

    def check(self, beside: Point) -> None:
        """Refuse what a prompt's critic cannot do: it knows probabilities, and one value only."""
        if self.level == "token":
            return
        if self.clip is not None:
            raise ValueError(
                f"prior.clip: {self.clip:g} limits a squared error, and level 'prompt' is fitted by "
                f"cross-entropy; remove clip, or set level to token"
            )
        if beside.reward_range != (0.0, 1.0):
            low, high = beside.reward_range
            raise ValueError(
                f"prior.level: 'prompt' is fitted by cross-entropy, which takes rewards in [0, 1], not in "
                f"[{low:g}, {high:g}]; set level to token, or rewards to [0, 1]"
            )
        if beside.estimator.type == "gae":
            raise ValueError(
                "prior.level: 'prompt' gives one value a prompt under estimator 'gae'; set it to token"
            )

    def begin(self, scale: Scale) -> Critic:
        return Critic(self, scale)


@dataclass
class Critic(Prior):
    """Estimates what the critic says, clipped to what a reward can be.

    Values per token predict the shaped reward, so a penalty widens their range: held at the least `correct`
    they would be too high for a punished response, and under lambda < 1 its advantages biased. Targets are
    lambda-returns, means of such values and the reward with weights of sum 1, and stay in the same range.
    The value of a prompt predicts `correct`, and is clipped to the declared range.

    A state's value does not depend on the token drawn from it, so reading a rollout's own values is unbiased.

    While `warmup_updates` steps train the critic alone it is silent, and nothing is trained under it.
    """

    config: CriticPrior
    scale: Scale = UNIT
    seen: int = 0
    """Steps observed."""

    def needs(self) -> Needs:
        start = float(self.scale.low + self.scale.width * self.config.start)
        clip = None if self.config.clip is None else float(self.scale.width * self.config.clip)
        return Needs(
            values=CriticNeeds(self.config.level, self.config.lr, self.config.mini_batches, start, clip)
        )

    def predict(self, batch: Batch) -> ValueEstimate:
        scale, values = self.scale, _required(batch)
        mean_N = np.clip([value_T[0] for value_T in values], scale.low, scale.high)
        warming = self.seen < self.config.warmup_updates
        silent_N = np.ones(batch.rollouts, np.bool_) if warming else None
        if self.config.level == "token":
            tokens = tuple(np.clip(value_T, scale.shaped_low, scale.high) for value_T in values)
            return ValueEstimate(mean_N=mean_N, tokens=tokens, silent_N=silent_N)
        mean_P = np.zeros(batch.prompts)
        mean_P[batch.prompt_N] = mean_N
        return ValueEstimate(mean_P=mean_P, silent_N=silent_N)

    def targets(self, batch: Batch) -> tuple[FloatArray, ...]:
        """Return the rollout's reward for each of its states; no target where the verifier failed."""
        reward_N = np.where(verified_N(batch), batch.correct_N, np.nan)
        return tuple(
            np.full(len(value_T), reward) for value_T, reward in zip(_required(batch), reward_N, strict=True)
        )

    def observe(self, batch: Batch, stats: Stats) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = int(state["seen"])


def _required(batch: Batch) -> tuple[FloatArray, ...]:
    if batch.values is None:
        raise StrategyError("strategy.prior: 'critic' reads values, and this batch has none")
    return batch.values
