"""What the training loop and a strategy exchange: plain NumPy, flat over rollouts.

Shapes are in the names: P prompts of this step, N rollouts of this step, R requests, C prompts in the
pool, T tokens, F features, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class Kind(IntEnum):
    """How a rollout is drawn."""

    SAMPLE = 0
    GREEDY = 1
    """Temperature 0, for baselines such as ReMax's."""
    REFERENCE = 2
    """From the frozen initial policy."""


class Verdict(IntEnum):
    """What the verifier said. Anything but OK is not a wrong answer: the rollout has no reward."""

    OK = 0
    ERROR = 1
    TIMEOUT = 2


@dataclass(frozen=True)
class Pool:
    """The training prompts a strategy may choose from, soonest first.

    The order is the epoch's shuffle: `prompt_C[0]` is the next prompt that has not been used in this epoch.
    A strategy without an opinion takes the first ones.
    """

    prompt_C: IntArray
    """Prompt ids: indices into the training split."""
    stratum_C: IntArray
    """Declared stratum of each prompt (for addition: the operand lengths); 0 where none is declared."""
    rng: np.random.Generator
    """Seeded by (run seed, step): the only randomness a strategy may use in `select`."""


@dataclass(frozen=True)
class Room:
    """Compute that is left. The loop enforces it whatever a strategy asks for."""

    rollouts: int
    """Rollouts this step may still draw."""
    rounds: int
    """Rounds of sampling this step may still run."""
    step: int
    """Index of the current step, from 0."""
    total: int
    """Rollouts this step may draw altogether (`rollouts_per_step`); never less than `rollouts`."""


@dataclass(frozen=True)
class Requests:
    """Rollouts to draw. A prompt id may occur once per kind."""

    prompt_R: IntArray
    """Prompt ids."""
    count_R: IntArray
    kind_R: IntArray
    """`Kind` of each request."""
    trainable_R: BoolArray
    """False: used for the baseline only, never in the loss. Still paid for."""

    @staticmethod
    def samples(prompt_R: npt.ArrayLike, count_R: npt.ArrayLike) -> Requests:
        """Ordinary trainable samples: `count_R` (or one number for all) of each prompt."""
        prompt = np.asarray(prompt_R, dtype=np.int64)
        count = np.broadcast_to(np.asarray(count_R, dtype=np.int64), prompt.shape).copy()
        return Requests(
            prompt_R=prompt,
            count_R=count,
            kind_R=np.full(prompt.shape, int(Kind.SAMPLE), dtype=np.int64),
            trainable_R=np.ones(prompt.shape, dtype=np.bool_),
        )

    @property
    def rollouts(self) -> int:
        return int(self.count_R.sum())


@dataclass(frozen=True)
class Decision:
    """What a strategy wants after a round. Nothing asked for means: done."""

    more: Requests | None = None
    """Further rollouts of prompts that are in the batch already."""
    new_prompts: int = 0
    """How many fresh prompts to select (the loop calls `select` again with this many wanted)."""
    drop_P: BoolArray | None = None
    """Prompts of the batch to leave out of training. Their rollouts stay paid for."""

    @property
    def done(self) -> bool:
        return self.more is None and self.new_prompts == 0


@dataclass(frozen=True)
class Features:
    """Pooled hidden states of the learner's teacher-forced pass, one row per rollout."""

    prompt_NF: npt.NDArray[np.float32]
    response_NF: npt.NDArray[np.float32]
    entropy_N3: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """All rollouts of this step so far.

    Rows whose verdict is not OK carry reward 0 and must be ignored through `valid_N`.
    """

    prompt_id_P: IntArray
    """Ids of the step's prompts, in order of first appearance."""
    stratum_P: IntArray
    prompt_N: IntArray
    """Row of each rollout's prompt in `prompt_id_P`."""
    round_N: IntArray
    """Sampling round that drew the rollout, from 0."""
    kind_N: IntArray
    trainable_N: BoolArray
    verdict_N: IntArray
    correct_N: FloatArray
    """Correctness in [0, 1]: feeds tests, trackers, probes and group filters."""
    reward_N: FloatArray
    """Correctness plus shaping: feeds the advantage."""
    length_N: IntArray
    """Response tokens."""
    version_N: IntArray
    """Policy version that drew the rollout."""
    dropped_P: BoolArray
    """Prompts dropped by an earlier decision of this step."""
    logprob_N: FloatArray | None = None
    """Sum of the response's log-probs under the learner; present from `score` on."""
    entropy_N: FloatArray | None = None
    """Mean token entropy of the response, nats; present from `score` on."""
    features: Features | None = None
    values: tuple[FloatArray, ...] | None = None
    """Critic values of each rollout's response tokens: N arrays of shape (T_n,)."""

    @property
    def rollouts(self) -> int:
        return len(self.prompt_N)

    @property
    def prompts(self) -> int:
        return len(self.prompt_id_P)

    @property
    def valid_N(self) -> BoolArray:
        """Rollouts with a reward: verified, drawn from the current policy, trainable, prompt not dropped."""
        return np.asarray(
            (self.verdict_N == Verdict.OK)
            & (self.kind_N == Kind.SAMPLE)
            & self.trainable_N
            & ~self.dropped_P[self.prompt_N],
            dtype=np.bool_,
        )


@dataclass(frozen=True)
class Scores:
    """What the learner trains on."""

    advantage_N: FloatArray
    """One advantage per rollout; ignored where `advantage_tokens` is given."""
    weight_N: FloatArray
    """Weight in the loss; 0 = not trained."""
    advantage_tokens: tuple[FloatArray, ...] | None = None
    """Per-token advantages, N arrays of shape (T_n,), where the estimator speaks per token."""
    value_targets: tuple[FloatArray, ...] | None = None
    """Regression targets for a critic, N arrays of shape (T_n,)."""
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    """Scalars for the log: mean baseline, mean prior, mean w, acceptance rate, uniform groups, ..."""


@dataclass(frozen=True)
class Stats:
    """What the update did; handed to `observe`."""

    step: int
    logprob_change: float
    """Mean absolute change of a trained token's log-prob through the update, nats; 0 unless asked for."""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    """What the loop must compute for a strategy, and when it is needed."""

    features: bool = False
    values: bool = False
    at_decide: bool = False
    """True: computed after every round, for the new rollouts only. False: once, before `score`."""
    layers: tuple[float, ...] = ()
    """Relative depths in (0, 1] of the layers whose features are wanted."""
    logprob_change: bool = False
    """True: `Stats.logprob_change` is measured by one more forward pass after the update; else it is 0."""
