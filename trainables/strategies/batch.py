"""What the training loop and a strategy exchange: plain NumPy, flat over rollouts.

Shapes are in the names: P prompts of this step, N rollouts of this step, R requests, C prompts in the
pool, T tokens, F features, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from trainables.errors import StrategyError
from trainables.value_models.config import EncoderConfig

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
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
class RolloutBudget:
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
        """Request ordinary trainable samples: `count_R` (or one number for all) of each prompt."""
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
    """Pooled hidden states of the learner's teacher-forced pass, one row per rollout.

    Parts: the prompt's last tokens, and the last tokens of the reasoning. L decoder blocks of width F, K
    numbers per part in the survey of all blocks.
    """

    layer: int
    """Decoder block of `prompt_NF` and `response_NF`, from 0."""
    prompt_NF: Float32Array
    response_NF: Float32Array
    entropy_N3: Float32Array
    """Mean token entropy, nats: whole response, its reasoning, its answer (0 where there is none)."""
    survey_NL2K: npt.NDArray[np.float16] | None = None
    """Both parts of every block, in half precision and, unless asked for whole, projected."""

    @property
    def nbytes(self) -> int:
        arrays = (self.prompt_NF, self.response_NF, self.entropy_N3, self.survey_NL2K)
        return sum(array.nbytes for array in arrays if array is not None)

    def take(self, rows: IntArray) -> Features:
        """Return the given rollouts, in the given order."""
        survey = None if self.survey_NL2K is None else self.survey_NL2K[rows]
        return Features(
            self.layer, self.prompt_NF[rows], self.response_NF[rows], self.entropy_N3[rows], survey
        )

    @staticmethod
    def concatenate(parts: Sequence[Features]) -> Features:
        """Join the rollouts of several rounds or ranks, one after another."""
        surveys = [part.survey_NL2K for part in parts if part.survey_NL2K is not None]
        return Features(
            layer=parts[0].layer,
            prompt_NF=np.concatenate([part.prompt_NF for part in parts]),
            response_NF=np.concatenate([part.response_NF for part in parts]),
            entropy_N3=np.concatenate([part.entropy_N3 for part in parts]),
            survey_NL2K=np.concatenate(surveys) if surveys else None,
        )


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
    """Critic values of the states that each rollout's response tokens are drawn from: N arrays of shape
    (T_n,). The first is the prompt's, and all are where the critic reads the prompt only."""

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
    """Regression targets for a critic, N arrays of shape (T_n,); NaN = none."""
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    """Scalars for the log: mean baseline, mean prior, mean w, acceptance rate, uniform groups, ..."""
    equal_prompts: bool = False
    """True: every prompt weighs the same in a mini-batch. Where the loss is a mean over tokens, the loop
    scales `weight_N` so that this holds of a prompt's tokens too."""


@dataclass(frozen=True)
class Stats:
    """What the update did; handed to `observe`."""

    step: int
    logprob_change_P: FloatArray | None = None
    """Mean absolute change of a token's log-prob in each prompt's last response, nats: between the policy
    that the update of that visit left, and the one that this update left. 0 at a prompt's first visit.
    None unless asked for."""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureNeeds:
    """Which hidden states a strategy reads (see `Features`)."""

    depth: float = 0.53
    """Relative depth in (0, 1] of the block that is kept in full: block floor(depth * L), from 0."""
    layer: int | None = None
    """That block by its number, from 0; overrides `depth`."""
    window: int = 10
    """Tokens at the end of prompt and reasoning that are averaged; fewer where there are fewer."""
    reasoning_end: str = "</think>"
    """Text whose last occurrence ends the reasoning. Without it the states are read at the response's end,
    and the entropy of the reasoning is 0."""
    survey: int | None = None
    """Numbers per part that are kept of *every* block; 0 = all of them, None = no survey."""


@dataclass(frozen=True)
class CriticNeeds:
    """The critic that the learner is to train for a strategy: a model of its own."""

    level: Literal["token", "prompt"] = "token"
    """`token`: a value for the state that each response token is drawn from, fitted by squared error.
    `prompt`: one value, the sigmoid of a head on the last prompt token, fitted by cross-entropy (SPPO)."""
    lr: float = 1e-5
    mini_batches: int = 1
    """Optimizer updates of the critic per step."""
    start: float = 0.5
    """Value of every state before any update, in reward units; inside (0, 1) at level `prompt`."""
    clip: float | None = None
    """Level `token`: how far a step may move a value and still be rewarded for it, in reward units."""


class PromptVectors(Protocol):
    """Vectors of training prompts by an encoder; computed at first use and kept."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """Widths of the parts of a vector (`trainables.value_models.heads.scaling.Layout`)."""
        ...

    def __call__(self, prompt_P: IntArray) -> Float32Array:
        """Return (P, F) vectors of prompt ids."""
        ...


@dataclass(frozen=True)
class Needs:
    """What the loop must compute for a strategy, and when it is needed."""

    features: FeatureNeeds | None = None
    values: CriticNeeds | None = None
    encoder: EncoderConfig | None = None
    """Prompt vectors of this encoder, handed to the strategy's `provide` once, before the first step."""
    at_decide: bool = False
    """True: computed after every round, for the new rollouts only. False: once, before `score`."""
    logprob_change: bool = False
    """True: `Stats.logprob_change_P` is measured. One response per prompt is kept, and after the update those
    of this step's prompts, last and new, pass through the learner."""

    def union(self, other: Needs) -> Needs:
        """Return both together.

        Raises:
            StrategyError: the two want different features, critics or encoders.
        """
        return Needs(
            features=_one("features", self.features, other.features),
            values=_one("values", self.values, other.values),
            encoder=_one("encoder", self.encoder, other.encoder),
            at_decide=self.at_decide or other.at_decide,
            logprob_change=self.logprob_change or other.logprob_change,
        )


T = TypeVar("T")


def _one(name: str, first: T | None, second: T | None) -> T | None:
    if first is not None and second is not None and first != second:
        raise StrategyError(
            f"strategy.warmup: needs {name} {first}, but the strategy it warms up needs {second}; a step "
            "computes them once: give both the same settings"
        )
    return second if first is None else first
