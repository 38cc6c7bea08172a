"""Every published baseline as a point in prior x fusion x budget. Pydantic only.

A preset is a few parameters and the axes they stand for. Each names its paper and where trimtab departs
from it. All presets share loss, clip and learning rate (`LossConfig`, `LearnerConfig`): only the baseline
axes differ here. Departure common to all: rewards are in [0, 1] and the step's compute is
`rollouts_per_step`, out of which every rollout (refills, extras, greedy ones) is paid.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from trainables.strategies.axes import (
    PAPER_ALPHA,
    Allocated,
    Alpha,
    Axis,
    BatchStd,
    BetaCounts,
    ContextPrior,
    CriticPrior,
    Dynamic,
    Ebpo,
    Fixed,
    Gae,
    GlobalPrior,
    GreedyPrior,
    GroupMean,
    GroupSize,
    GroupStd,
    JamesStein,
    Keep,
    LeaveOneOut,
    PairSize,
    PoolPrior,
    Positive,
    PriorOnly,
    ProbePrior,
    Sequential,
    Share,
    StrataPrior,
    Tested,
    TrackerPrior,
    Weighted,
)

Axes = dict[str, Any]


class Preset(Axis):
    """Base: the fields are the preset's parameters, `axes` the point they stand for."""

    def axes(self) -> Axes:
        """Axis name -> member. What is left out keeps its default (no prior, Monte-Carlo, no normaliser)."""
        raise NotImplementedError


class Grpo(Preset):
    """GRPO (arXiv 2402.03300, section 4.1.2): (r - mean) / (std + 1e-6), std with ddof 1 as in verl.

    Departs: sequence or token mean is the shared loss setting; no KL term.
    """

    group_size: PairSize = 16

    def axes(self) -> Axes:
        return {"fusion": GroupMean(), "budget": Fixed(group_size=self.group_size), "normaliser": GroupStd()}


class DrGrpo(Preset):
    """Dr.GRPO (arXiv 2503.20783, section 3.2): r - mean, no division.

    Departs: its constant-length loss is `loss.aggregation: constant_length`, not part of the baseline.
    """

    group_size: PairSize = 16

    def axes(self) -> Axes:
        return {"fusion": GroupMean(), "budget": Fixed(group_size=self.group_size)}


class Rloo(Preset):
    """RLOO (arXiv 2402.14740, section 2.2.2): r - mean of the group's other rollouts."""

    group_size: PairSize = 4

    def axes(self) -> Axes:
        return {"fusion": LeaveOneOut(), "budget": Fixed(group_size=self.group_size)}


class Dapo(Preset):
    """DAPO (arXiv 2503.14476, eq. 8-11): GRPO's advantage on groups with 0 < right < G; refill.

    Departs: a refill draws exactly the missing groups instead of a whole generation batch, is bounded, and
    is paid out of the step's rollout budget; the group filter reads `correct` (as verl does). Clip-higher,
    token mean and overlong shaping are loss settings.
    """

    group_size: PairSize = 16
    initial: float = Field(default=0.5, gt=0, le=1)
    """Share of the step's rollouts in the first round; the rest is room for refills."""
    max_refills: int = Field(default=10, ge=0)

    def axes(self) -> Axes:
        return {
            "fusion": GroupMean(),
            "budget": Dynamic(group_size=self.group_size, initial=self.initial, max_refills=self.max_refills),
            "normaliser": GroupStd(),
        }


class ReinforcePp(Preset):
    """REINFORCE++-baseline (arXiv 2501.03262, section 3): r - group mean, whitened over the batch."""

    group_size: PairSize = 16

    def axes(self) -> Axes:
        return {
            "fusion": GroupMean(),
            "budget": Fixed(group_size=self.group_size),
            "normaliser": BatchStd(center=True),
        }


class Remax(Preset):
    """ReMax (arXiv 2310.10505, algorithm 1): r - r(greedy). The greedy rollout is paid for, not trained."""

    group_size: GroupSize = 1

    def axes(self) -> Axes:
        return {
            "prior": GreedyPrior(),
            "fusion": PriorOnly(),
            "budget": Fixed(group_size=self.group_size),
        }


class V05(Preset):
    """V0.5 (arXiv 2603.10848, theorem 3.1-3.4): tested shrinkage to a prior, sequential budget.

    Departs: the value model is a Gaussian process on the policy's own record, with nothing to download; the
    level alpha is free (its default is the paper's rule); extras come out of a reserve of the step's
    rollouts and are spent where the predicted gain is largest. Uniform groups are kept: the prior gives
    them signal.
    """

    group_size: GroupSize = 4
    """First-round rollouts of a prompt (the paper's k_min)."""
    k_max: GroupSize = 16
    alpha: Alpha = PAPER_ALPHA
    cost: Positive = 1.0 / 256.0
    reserve: Share = 0.25
    draw: int = Field(default=1, ge=1)
    keep: Keep = 0.9
    """Share of the prior's old evidence that survives a step."""
    context: int = Field(default=256, ge=1, le=4096)
    """Pairs of the policy's record that the prior reads."""

    def axes(self) -> Axes:
        return {
            "prior": ContextPrior(size=self.context, keep=self.keep),
            "fusion": self.fusion(),
            "budget": Sequential(
                k_min=self.group_size,
                k_max=self.k_max,
                cost=self.cost,
                reserve=self.reserve,
                draw=self.draw,
            ),
        }

    def fusion(self) -> Tested:
        return Tested(alpha=self.alpha)


class V05Loo(V05):
    """V0.5 with mean, count and prior without the scored rollout: no self-coupling (not in the paper)."""

    def fusion(self) -> Tested:
        return Tested(alpha=self.alpha, leave_one_out=True)


class V05Unbiased(V05):
    """V0.5 made unbiased under sequential stopping (methods.md section 1; not in the paper).

    A rollout's baseline uses earlier rounds and the others of its own round; rollouts are summed.
    """

    def fusion(self) -> Tested:
        return Tested(alpha=self.alpha, leave_one_out=True, per_round=True)


class V0(Preset):
    """V0 (arXiv 2602.03584, section 4.3): GRPO with rollouts allocated by predicted pass rate.

    Departs: the exact dynamic programme is offered beside the paper's greedy rule.
    """

    group_size: PairSize = 16
    low: PairSize = 2
    high: PairSize = 128
    method: Literal["greedy", "lagrangian", "exact"] = "greedy"
    context: int = Field(default=256, ge=1, le=4096)

    def axes(self) -> Axes:
        return {
            "prior": ContextPrior(size=self.context),
            "fusion": GroupMean(),
            "budget": Allocated(group_size=self.group_size, low=self.low, high=self.high, method=self.method),
            "normaliser": GroupStd(),
        }


class Poise(Preset):
    """POISE (arXiv 2605.07579, algorithm 1): r - probe(states of the group's other rollouts).

    Leave-one-out (RLOO) while the probe's buffer fills. Departs: nothing in the baseline; defaults are the
    released code's (PCA 32 + 64, penalty 100), the paper's own are no PCA and .01.
    """

    group_size: PairSize = 2
    warmup_updates: int = Field(default=16, ge=0)
    """Updates with the leave-one-out baseline first."""
    depth: float = Field(default=0.53, gt=0, le=1)
    """Relative depth of the decoder block that is read."""
    layer: int | Literal["auto"] | None = Field(default=None)
    """The block by its number, from 0, or the one with the smallest trailing error."""
    survey: bool = False
    """Score all blocks at each step."""
    window: int = Field(default=10, ge=1)
    model: Literal["ridge", "logistic", "mlp"] = "ridge"
    penalty: Positive = 100.0
    pca_prompt: int = Field(default=32, ge=0)
    pca_response: int = Field(default=64, ge=0)
    buffer: int = Field(default=4096, ge=16)
    per_stratum: bool = False

    def axes(self) -> Axes:
        own = self.model_dump(exclude={"group_size", "warmup_updates"})
        point: Axes = {
            "prior": ProbePrior(**own),
            "fusion": PriorOnly(leave_one_out=True),
            "budget": Fixed(group_size=self.group_size),
        }
        if self.warmup_updates:
            point["warmup"] = {
                "updates": self.warmup_updates,
                "strategy": {"preset": "rloo", "group_size": self.group_size},
            }
        return point


class Ppo(Preset):
    """PPO (arXiv 1707.06347) with a critic: GAE, discount 1, whitened over the batch's tokens.

    Departs: the critic is a model of its own, started from the policy's weights.
    """

    group_size: GroupSize = 1
    lam: float = Field(default=1.0, ge=0, le=1)
    length_adaptive: float = Field(default=0.0, ge=0)
    """VAPO's a in lambda = 1 - 1/(a T), limited to [0, 1]; 0 = `lam` for every length."""
    critic_lr: Positive = 1e-5
    critic_mini_batches: int = Field(default=1, ge=1)
    critic_clip: Positive | None = 0.2
    """Range of the clipped value loss; null = not clipped. It matters from the second mini-batch on."""
    warmup_updates: int = Field(default=0, ge=0)
    """Steps that train the critic only."""

    def axes(self) -> Axes:
        return {
            "prior": CriticPrior(
                lr=self.critic_lr,
                mini_batches=self.critic_mini_batches,
                clip=self.critic_clip,
                warmup_updates=self.warmup_updates,
            ),
            "fusion": PriorOnly(),
            "budget": Fixed(group_size=self.group_size),
            "estimator": Gae(lam=self.lam, length_adaptive=self.length_adaptive),
            "normaliser": BatchStd(center=True),
        }


class Sppo(Preset):
    """SPPO: a critic that sees the prompt only, V(x) = sigmoid(head(last prompt token)); A = r - V, whitened.

    Departs: the critic is a model of its own, started from the policy's weights.
    """

    group_size: GroupSize = 1
    critic_lr: Positive = 1e-5
    critic_mini_batches: int = Field(default=1, ge=1)
    warmup_updates: int = Field(default=0, ge=0)

    def axes(self) -> Axes:
        return {
            "prior": CriticPrior(
                level="prompt",
                lr=self.critic_lr,
                mini_batches=self.critic_mini_batches,
                warmup_updates=self.warmup_updates,
            ),
            "fusion": PriorOnly(),
            "budget": Fixed(group_size=self.group_size),
            "normaliser": BatchStd(center=True),
        }


class Spo(Preset):
    """SPO (arXiv 2509.13232): per-prompt tracker as baseline, weighted prompts, whitened over the batch.

    Departs: no offline bootstrap by default (`bootstrap: 8` buys it out of the step's rollouts); a prompt
    that was never seen starts at the mean of those that were.
    """

    group_size: GroupSize = 1
    floor: Positive = 0.05
    bootstrap: int = Field(default=0, ge=0)

    def axes(self) -> Axes:
        return {
            "prior": TrackerPrior(),
            "fusion": PriorOnly(),
            "budget": Weighted(group_size=self.group_size, floor=self.floor, bootstrap=self.bootstrap),
            "normaliser": BatchStd(center=True),
        }


class Jspo(Preset):
    """James-Stein leave-one-out across the step's prompts (arXiv 2511.03710)."""

    group_size: PairSize = 4

    def axes(self) -> Axes:
        return {"prior": PoolPrior(), "fusion": JamesStein(), "budget": Fixed(group_size=self.group_size)}


class EbpoPreset(Preset):
    """EBPO (arXiv 2602.05165): group mean shrunk to a running global mean, divided by the group std."""

    group_size: PairSize = 8
    keep: Keep = 0.9

    def axes(self) -> Axes:
        return {
            "prior": GlobalPrior(keep=self.keep),
            "fusion": Ebpo(),
            "budget": Fixed(group_size=self.group_size),
            "normaliser": GroupStd(),
        }


class BetaMix(Preset):
    """Beta pseudo-counts on the strata prior: a simple, strong rival of the tested fusion (methods.md 1)."""

    group_size: GroupSize = 4
    n0: Positive = 4.0
    keep: Keep = 0.9

    def axes(self) -> Axes:
        return {
            "prior": StrataPrior(keep=self.keep),
            "fusion": BetaCounts(n0=self.n0),
            "budget": Fixed(group_size=self.group_size),
        }


PRESETS: dict[str, type[Preset]] = {
    "grpo": Grpo,
    "dr_grpo": DrGrpo,
    "rloo": Rloo,
    "dapo": Dapo,
    "reinforce_pp": ReinforcePp,
    "remax": Remax,
    "v05": V05,
    "v05_loo": V05Loo,
    "v05_unbiased": V05Unbiased,
    "v0": V0,
    "poise": Poise,
    "ppo": Ppo,
    "sppo": Sppo,
    "spo": Spo,
    "jspo": Jspo,
    "ebpo": EbpoPreset,
    "beta_mix": BetaMix,
}
