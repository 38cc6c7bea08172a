"""The axes of a strategy, as a user writes them: prior, fusion, budget, estimator, normaliser.

Pydantic only: the CLI reads this without NumPy. Every axis accepts a mapping with a `type`, a bare string
(that type with its defaults) or an import path `package.module:Class` of your own.
Rates, rewards and value estimates are in [0, 1] unless `reward_range` says otherwise.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from trainables.value_models.config import EncoderConfig

PAPER_ALPHA = math.erfc(math.sqrt(0.5))
"""chi2.sf(1, 1) = 0.3173...: the level at which the tested fusion is V0.5's published rule exactly."""

Alpha = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
GroupSize = Annotated[int, Field(ge=1, le=65536)]
PairSize = Annotated[int, Field(ge=2, le=65536)]
Positive = Annotated[float, Field(gt=0)]
Keep = Annotated[float, Field(gt=0, le=1)]


class Axis(BaseModel):
    """Base of all axis members: unknown keys are refused, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Custom(Axis):
    """A member of your own, by import path. Built as `Class(**params)`."""

    type: Literal["custom"] = "custom"
    path: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    params: dict[str, Any] = {}


# ---- priors -------------------------------------------------------------------------------------------


class NoPrior(Axis):
    type: Literal["none"] = "none"


class StrataPrior(Axis):
    """Running pass rate of each declared stratum, from past steps only."""

    type: Literal["strata"] = "strata"
    keep: Keep = 0.9
    """Share of the old evidence that survives a step: the policy changes, old pass rates go stale."""
    start: Annotated[float, Field(ge=0, le=1)] = 0.5
    """ValueEstimate before any evidence, as a share of the reward range."""


class GlobalPrior(Axis):
    """One running mean over all prompts, with the spread between and within prompts (EBPO, control)."""

    type: Literal["global"] = "global"
    keep: Keep = 0.9
    start: Annotated[float, Field(ge=0, le=1)] = 0.5


class TrackerPrior(Axis):
    """Per-prompt Beta counts with forgetting (SPO, arXiv 2509.13232)."""

    type: Literal["tracker"] = "tracker"
    mass: Positive = 8.0
    """Pseudo-counts of the first estimate of a prompt."""
    half_change: Positive = 0.06
    """Mean absolute log-prob change (nats) after which half of the old evidence is forgotten."""
    keep_min: Keep = 0.875
    keep_max: Keep = 0.96
    start: Annotated[float, Field(ge=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _ordered(self) -> TrackerPrior:
        if self.keep_min > self.keep_max:
            raise ValueError(f"keep_min: {self.keep_min} exceeds keep_max={self.keep_max}; lower keep_min")
        return self


class PoolPrior(Axis):
    """Mean of the step's other prompts (James-Stein): leaves the prompt's own group out."""

    type: Literal["pool"] = "pool"


class GreedyPrior(Axis):
    """Reward of one greedy rollout per prompt, drawn for the baseline only (ReMax). It is paid for."""

    type: Literal["greedy"] = "greedy"


class ContextPrior(Axis):
    """In-context value model reading the policy's own record (V0, arXiv 2602.03584)."""

    type: Literal["context"] = "context"
    size: Annotated[int, Field(ge=1, le=4096)] = 256
    """Most recent (prompt, mean reward) pairs that are read."""
    keep: Keep = 0.9
    """Share of a pair's evidence that survives a step: the policy changes."""
    head: str = ""
    """Folder of a head that `trimtab v0 fit` wrote (it brings its encoder); empty: the record alone."""
    refit: Annotated[int, Field(ge=1)] = 8
    """Steps between choices of the unfitted head's length scales. The record is read anew each step."""
    encoder: EncoderConfig = EncoderConfig()


class ProbePrior(Axis):
    """Probe on the policy's own hidden states, refitted every step (POISE, arXiv 2605.07579).

    Its states come with the learner's log-prob pass. Defaults are those of the authors' code; their paper
    has no PCA and a penalty of .01.
    """

    type: Literal["probe"] = "probe"
    depth: Annotated[float, Field(gt=0, le=1)] = 0.53
    """Relative depth of the decoder block that is read: block floor(depth * L) of L, 19 of 36."""
    layer: int | Literal["auto"] | None = None
    """That block by its number, from 0. `auto`: the block with the smallest trailing error on rewards that
    it had not seen; reads the survey."""
    survey: bool = False
    """Score every block at each step: `strategy/layer_mae/<block>`, `strategy/layer_pearson/<block>`."""
    survey_width: Annotated[int, Field(ge=0)] = 64
    """Numbers per part to which the survey projects a block's states; 0 = none is left out."""
    states: Literal["trajectory", "prompt"] = "trajectory"
    """`prompt`: prompt states only. A value estimate per prompt, which any fusion may use; `trajectory` needs
    one that leaves the scored rollout out."""
    window: Annotated[int, Field(ge=1)] = 10
    """Tokens at the end of prompt and reasoning that are averaged."""
    reasoning_end: Annotated[str, Field(min_length=1)] = "</think>"
    """Ends the reasoning; a response without it is reasoning as a whole."""
    model: Literal["ridge", "logistic", "mlp"] = "ridge"
    penalty: Positive = 100.0
    """L2 penalty on the sum over rows."""
    pca_prompt: Annotated[int, Field(ge=0)] = 32
    """Principal components of the prompt part, at most as many as rows and columns; 0 = all columns."""
    pca_response: Annotated[int, Field(ge=0)] = 64
    buffer: Annotated[int, Field(ge=16)] = 4096
    """Rows the probe is fitted on; the oldest prompt groups leave first."""
    refit: Literal["scratch", "incremental"] = "scratch"
    """`incremental`: scaling and PCA are kept for `refresh` steps, and only the regression is refitted."""
    refresh: Annotated[int, Field(ge=1)] = 16
    per_stratum: bool = False
    """One probe for each declared stratum (declare domains as strata); false: one for all prompts."""
    max_bad_features: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of a step's rollouts whose states may be NaN or infinite (they are left out) before the trial
    fails as diverged."""
    start: Annotated[float, Field(ge=0, le=1)] = 0.5
    """ValueEstimate before the first fit, as a share of the reward range."""


class CriticPrior(Axis):
    """A critic of the policy's architecture, which the learner trains beside it (PPO, SPPO)."""

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


# ---- fusions ------------------------------------------------------------------------------------------


class GroupMean(Axis):
    """Mean of the prompt's own group, the scored rollout included (GRPO, DAPO)."""

    type: Literal["group_mean"] = "group_mean"


class LeaveOneOut(Axis):
    """Mean of the group's other rollouts (RLOO)."""

    type: Literal["leave_one_out"] = "leave_one_out"


class PriorOnly(Axis):
    """The prior as it is (SPO, PPO, ReMax)."""

    type: Literal["prior_only"] = "prior_only"
    leave_one_out: bool = False
    """For a prior that speaks per rollout: the mean over the group's *other* rollouts (POISE)."""


class Tested(Axis):
    """Tested shrinkage (V0.5, arXiv 2603.10848): trust the prior unless the group refutes it."""

    type: Literal["tested"] = "tested"
    alpha: Alpha = PAPER_ALPHA
    """Nominal level of the test. Towards 0 the prior is always trusted."""
    leave_one_out: bool = False
    """Mean, count and prior without the scored rollout: no self-coupling."""
    per_round: bool = False
    """Earlier rounds and the other rollouts of the rollout's own round only: unbiased under sequential
    stopping. Needs `leave_one_out: true`."""
    test: Literal["chi2", "exact"] = "chi2"
    """`exact`: two-sided binomial test; binary rewards only."""

    @model_validator(mode="after")
    def _consistent(self) -> Tested:
        if self.per_round and not self.leave_one_out:
            raise ValueError("per_round: true needs leave_one_out: true; set both")
        return self


class BetaCounts(Axis):
    """(n0 V + k m) / (n0 + k): the prior counts as n0 rollouts."""

    type: Literal["beta"] = "beta"
    n0: Positive = 4.0
    leave_one_out: bool = False


class JamesStein(Axis):
    """James-Stein leave-one-out across prompts (arXiv 2511.03710)."""

    type: Literal["james_stein"] = "james_stein"


class Ebpo(Axis):
    """Empirical-Bayes shrinkage of the group mean to a running global mean (arXiv 2602.05165)."""

    type: Literal["ebpo"] = "ebpo"


class LengthWeighted(Axis):
    """Length-weighted group mean (OPO, arXiv 2505.23585)."""

    type: Literal["length_weighted"] = "length_weighted"
    leave_one_out: bool = False


# ---- budgets ------------------------------------------------------------------------------------------


class Fixed(Axis):
    """`rollouts_per_step // group_size` prompts of `group_size` rollouts each."""

    type: Literal["fixed"] = "fixed"
    group_size: GroupSize = 16


class Sequential(Axis):
    """Start with k_min rollouts of each prompt; draw more where one more is predicted to pay (V0.5)."""

    type: Literal["sequential"] = "sequential"
    k_min: GroupSize = 4
    k_max: GroupSize = 16
    cost: Positive = 1.0 / 256.0
    """Price of one rollout, in units of the worst-case reward variance; 1/256 makes 16 the natural stop."""
    reserve: Share = 0.25
    """Share of the step's rollouts kept for extra draws; the rest is spent on first rounds."""
    draw: Annotated[int, Field(ge=1)] = 1
    """Rollouts an undecided prompt gets per round. More saves rounds and stops less sharply."""
    refill: bool = False
    """True: room left when all prompts are settled goes to new prompts. False: it stays unspent, and the
    run gets more steps out of the same budget."""
    alpha: Alpha | None = None
    """Level of the stopping rule; null = the fusion's own level where it has one, else the paper's."""

    @model_validator(mode="after")
    def _cap(self) -> Sequential:
        if self.k_max < self.k_min:
            raise ValueError(
                f"k_max: {self.k_max} is a cap below the group size k_min={self.k_min}; raise k_max to at "
                f"least {self.k_min} or lower k_min"
            )
        return self


class Dynamic(Axis):
    """Dynamic sampling (DAPO): drop groups whose answers are all equally correct, refill from the budget."""

    type: Literal["dynamic"] = "dynamic"
    group_size: PairSize = 16
    initial: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the step's rollouts that the first round spends; the rest is there for refills."""
    max_refills: Annotated[int, Field(ge=0)] = 10


class Allocated(Axis):
    """Spend by predicted pass rate before sampling (V0, arXiv 2602.03584)."""

    type: Literal["allocated"] = "allocated"
    group_size: GroupSize = 16
    """Mean rollouts per prompt: decides how many prompts share the step."""
    low: PairSize = 2
    high: PairSize = 128
    method: Literal["greedy", "lagrangian", "exact"] = "greedy"

    @model_validator(mode="after")
    def _bounds(self) -> Allocated:
        if not self.low <= self.group_size <= self.high:
            raise ValueError(
                f"group_size: {self.group_size} is outside [low={self.low}, high={self.high}]; a step cannot "
                f"be spent that way: move group_size or the bounds"
            )
        return self


class TwoPhase(Axis):
    """Sample in rounds until a group holds enough right and enough wrong answers (Reinforce-Ada style)."""

    type: Literal["two_phase"] = "two_phase"
    group_size: PairSize = 4
    """Rollouts of one prompt in one round."""
    k_max: PairSize = 16
    right: Annotated[int, Field(ge=0)] = 1
    wrong: Annotated[int, Field(ge=0)] = 1
    reserve: Share = 0.5
    """Share of the step's rollouts kept for the later rounds."""

    @model_validator(mode="after")
    def _cap(self) -> TwoPhase:
        if self.k_max < self.group_size:
            raise ValueError(
                f"k_max: {self.k_max} is a cap below the group size group_size={self.group_size}; raise k_max"
            )
        if self.right + self.wrong > self.k_max:
            raise ValueError(
                f"right + wrong: {self.right + self.wrong} answers never fit k_max={self.k_max}; raise k_max"
            )
        return self


class Weighted(Axis):
    """Prompts sampled by how undecided the prior is: weight sqrt(v (1 - v)) + floor (SPO)."""

    type: Literal["weighted"] = "weighted"
    group_size: GroupSize = 1
    floor: Positive = 0.05
    bootstrap: Annotated[int, Field(ge=0)] = 0
    """Untrained rollouts that a prompt gets when it is first met, to start its tracker (SPO uses 8). They
    are paid for."""


# ---- estimators and normalisers -----------------------------------------------------------------------


class MonteCarlo(Axis):
    """Return minus baseline; no bootstrapping."""

    type: Literal["monte_carlo"] = "monte_carlo"


class Gae(Axis):
    """Generalised advantage estimation over token values (arXiv 1506.02438), discount 1."""

    type: Literal["gae"] = "gae"
    lam: Annotated[float, Field(ge=0, le=1)] = 1.0
    length_adaptive: Annotated[float, Field(ge=0)] = 0.0
    """VAPO's a in lambda = 1 - 1/(a T), limited to [0, 1]; 0 = off, `lam` holds for every length."""


class NoNormaliser(Axis):
    type: Literal["none"] = "none"


class GroupStd(Axis):
    """Divide by the group's sample standard deviation (ddof 1) of the rewards plus epsilon."""

    type: Literal["group_std"] = "group_std"
    epsilon: Positive = 1e-6


class BatchStd(Axis):
    """Divide by the batch's sample standard deviation (ddof 1) of the advantages plus epsilon."""

    type: Literal["batch_std"] = "batch_std"
    center: bool = False
    """Also subtract the batch mean (whitening)."""
    epsilon: Positive = 1e-6


def _open(value: object) -> object:
    """A bare string is a type with its defaults, or an import path."""
    if isinstance(value, str):
        return {"type": "custom", "path": value} if ":" in value else {"type": value}
    return value


_Prior = (
    NoPrior
    | StrataPrior
    | GlobalPrior
    | TrackerPrior
    | PoolPrior
    | GreedyPrior
    | ContextPrior
    | ProbePrior
    | CriticPrior
    | Custom
)
_Fusion = (
    GroupMean | LeaveOneOut | PriorOnly | Tested | BetaCounts | JamesStein | Ebpo | LengthWeighted | Custom
)
_Budget = Fixed | Sequential | Dynamic | Allocated | TwoPhase | Weighted | Custom
_Normaliser = NoNormaliser | GroupStd | BatchStd | Custom

Prior = Annotated[_Prior, Field(discriminator="type"), BeforeValidator(_open)]
Fusion = Annotated[_Fusion, Field(discriminator="type"), BeforeValidator(_open)]
Budget = Annotated[_Budget, Field(discriminator="type"), BeforeValidator(_open)]
Estimator = Annotated[MonteCarlo | Gae, Field(discriminator="type"), BeforeValidator(_open)]
Normaliser = Annotated[_Normaliser, Field(discriminator="type"), BeforeValidator(_open)]
