"""Regenerate docs/strategy-tables.md: `python -m benchmarks.strategies` (a few minutes on one core).

Table 1 measures bias: each preset's mean gradient on a softmax bandit, compared with the true gradient.
Table 2 measures efficiency: the baseline's error and the gradient noise per rollout spent, under priors of
known error. Both run the presets as in training, through `benchmarks.strategies_sim`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.strategies_sim import A, B, Completions, Draw, KnownPrior, coin, play, wrong_prior
from trainables.strategies.batch import Batch, FloatArray, IntArray, Kind, Stats
from trainables.strategies.composed import Composed
from trainables.strategies.config import parse_strategy
from trainables.strategies.groups import Groups
from trainables.strategies.priors.base import Prior
from trainables.strategies.priors.smoothed.batchwise import BatchwisePrior
from trainables.strategies.priors.smoothed.sharing import Sharing
from trainables.strategies.protocol import Strategy
from trainables.strategies.value_estimate import ValueEstimate

DOC = Path(__file__).resolve().parent.parent / "docs" / "strategy-tables.md"

# ---- table 1: a softmax bandit ------------------------------------------------------------------------

TYPES, ACTIONS, TOTAL = 8, 4, 4096
VISITS = 2
"""Earlier visits of a prompt that a budget which remembers has seen."""


@dataclass(frozen=True)
class Bandit:
    """TYPES types of prompts, each with its own softmax over ACTIONS answers. The first two are correct."""

    policy_TA: FloatArray
    reward_A: FloatArray

    @staticmethod
    def make(seed: int = 0) -> Bandit:
        rng = np.random.default_rng(seed)
        rate_T = np.linspace(0.08, 0.92, TYPES)
        share_TA = rng.dirichlet([2.0, 2.0], (TYPES, 2))
        policy_TA = np.concatenate(
            [rate_T[:, None] * share_TA[:, 0], (1.0 - rate_T)[:, None] * share_TA[:, 1]], axis=1
        )
        return Bandit(policy_TA, np.array([1.0, 1.0, 0.0, 0.0]))

    @property
    def rate_T(self) -> FloatArray:
        return self.policy_TA @ self.reward_A

    @property
    def gradient_TA(self) -> FloatArray:
        """Return d E[r] / d logits = pi_a (R_a - mu)."""
        return self.policy_TA * (self.reward_A - self.rate_T[:, None])

    def draw(self, type_C: IntArray) -> Draw:
        """Draw answers to prompts of the given types. Their length depends on the answer."""
        edge_TA = self.policy_TA.cumsum(axis=1)

        def draw(prompt_N: IntArray, kind_N: IntArray, rng: np.random.Generator) -> Completions:
            type_N = type_C[prompt_N]
            action_N = (rng.random(len(type_N))[:, None] > edge_TA[type_N][:, :-1]).sum(axis=1)
            action_N = np.where(kind_N == Kind.GREEDY, self.policy_TA.argmax(axis=1)[type_N], action_N)
            return Completions(self.reward_A[action_N], 1 + action_N, action_N)

        return draw


class OwnStates(Prior):
    """A stub probe or critic, whose reading of a rollout's own trajectory reveals half its reward."""

    def __init__(self, mean_C: FloatArray, tokens: bool) -> None:
        self.mean_C, self.tokens = mean_C, tokens

    def predict(self, batch: Batch) -> ValueEstimate:
        prior_N = self.mean_C[batch.prompt_id_P][batch.prompt_N]
        seen_N = (prior_N + batch.correct_N) / 2.0
        if self.tokens:  # the first token's state is the prompt's, the second one knows more
            return ValueEstimate(tokens=tuple(np.stack([prior_N, seen_N], axis=1)))
        return ValueEstimate(mean_N=seen_N)


class KnownRates(Sharing):
    """BASIS with given pass rates in place of a record."""

    def __init__(self, mean_C: FloatArray) -> None:
        super().__init__(BatchwisePrior())
        self.mean_C = mean_C

    def rates(self, prompt_C: IntArray) -> FloatArray:
        return np.asarray(self.mean_C[prompt_C])


def _given(kind: str, prior_C: FloatArray) -> Prior | None:
    """Return the given prior of table 2, or None if the strategy has its own (pool, greedy, none)."""
    if kind == "batchwise":
        return KnownRates(prior_C)
    return None if kind in ("none", "pool", "greedy") else KnownPrior(prior_C)


def _prior(name: object, prior_C: FloatArray) -> Prior | None:
    """Return the given prior of a preset in table 1: what reads states is a stub that reads its own."""
    kind = parse_strategy(name).prior.type
    return OwnStates(prior_C, kind == "critic") if kind in ("probe", "critic") else _given(kind, prior_C)


class Bias(NamedTuple):
    """Estimated gradient along the true one, divided by the true gradient."""

    scale: float
    error: float
    """Standard error of `scale`."""
    low: float
    high: float
    """Smallest and largest scale of one prompt type."""
    off: float
    """Length of the component orthogonal to the true gradient, relative to the one along it."""


def measure_bias(name: object, samples: int, seed: int = 0, total: int = TOTAL, settings: str = "") -> Bias:
    """Draw `samples` rollouts and compare the mean of weight * advantage * score function with the gradient.

    The gradient estimate of a prompt type is the sum over its trained rollouts divided by the sum of their
    weights, so that more rollouts for a type do not count as bias. `name` is a preset or a strategy written
    out. What remembers has seen the step's prompts before (see `prepare`).
    """
    bandit, rng = Bandit.make(), np.random.default_rng(seed)
    blocks = 20
    moment_KTA = np.zeros((blocks, TYPES, ACTIONS))
    weight_KT = np.zeros((blocks, TYPES))
    spent, turn = 0, 0
    while spent < samples:
        type_C = rng.integers(0, TYPES, total)
        prior_C = wrong_prior(bandit.rate_T[type_C], 0.1, 0.0, rng)
        strategy = _bare(name, settings, prior_C)
        prepare(strategy, bandit.draw(type_C), total, total, rng)
        batch, action_N = play(strategy, bandit.draw(type_C), total, total, rng)
        scores = strategy.score(batch)
        advantage_N = scores.advantage_N
        if scores.advantage_tokens is not None:  # the answer is the first token; the rest follows from it
            advantage_N = np.array([a[0] for a in scores.advantage_tokens])
        type_N = type_C[batch.prompt_id_P][batch.prompt_N]
        cell_N = type_N * ACTIONS + action_N
        mass = np.bincount(cell_N, scores.weight_N * advantage_N, TYPES * ACTIONS)
        moment_KTA[turn % blocks] += mass.reshape(TYPES, ACTIONS)
        weight_KT[turn % blocks] += np.bincount(type_N, scores.weight_N, TYPES)
        spent, turn = spent + batch.rollouts, turn + 1
    # The score function of answer a is onehot(a) - policy.
    sum_KTA = moment_KTA - moment_KTA.sum(axis=2, keepdims=True) * bandit.policy_TA
    return _bias(sum_KTA, weight_KT, bandit.gradient_TA)


def prepare(strategy: Strategy, draw: Draw, prompts: int, total: int, rng: np.random.Generator) -> None:
    """Let a fusion or a budget that remembers observe steps of the same prompts, which are not measured.

    A fusion has then weights of a later step, and a budget has been at each prompt `VISITS` times.
    """
    if not isinstance(strategy, Composed):
        return
    steps = VISITS if strategy.budget.remembers else int(strategy.fusion.remembers)
    for step in range(steps):
        batch, _ = play(strategy, draw, prompts, total, rng)
        strategy.observe(batch, Stats(step=step))


def _bare(name: object, settings: str, prior_C: FloatArray) -> Strategy:
    written = dict(name) if isinstance(name, Mapping) else {"preset": name}
    config: dict[str, object] = {**written, "warmup": None}
    if settings:
        config["weighting"] = settings
    return parse_strategy(config).build(prior=_prior(name, prior_C))


def _bias(sum_KTA: FloatArray, weight_KT: FloatArray, gradient_TA: FloatArray) -> Bias:
    def scales(sum_TA: FloatArray, weight_T: FloatArray) -> tuple[FloatArray, FloatArray]:
        mean_TA = sum_TA / weight_T[:, None]
        return mean_TA, (mean_TA * gradient_TA).sum(axis=1) / (gradient_TA**2).sum(axis=1)

    size_T = (gradient_TA**2).sum(axis=1)
    mean_TA, scale_T = scales(sum_KTA.sum(axis=0), weight_KT.sum(axis=0))
    scale = float((scale_T * size_T).sum() / size_T.sum())
    blocks = len(sum_KTA)
    left_K = np.array(  # jackknife: the estimate is a ratio of sums
        [
            (scales(sum_KTA.sum(0) - sum_KTA[k], weight_KT.sum(0) - weight_KT[k])[1] * size_T).sum()
            / size_T.sum()
            for k in range(blocks)
        ]
    )
    error = float(np.sqrt((blocks - 1) / blocks * ((left_K - left_K.mean()) ** 2).sum()))
    along_TA = scale_T[:, None] * gradient_TA
    off = float(np.sqrt(((mean_TA - along_TA) ** 2).sum() / (along_TA**2).sum()))
    return Bias(scale, error, float(scale_T.min()), float(scale_T.max()), off)


HORA_RLOO = {"preset": "hora", "fusion": "leave_one_out", "normaliser": "none"}
CERO_RLOO = {"preset": "cero", "fusion": "leave_one_out", "normaliser": "none"}
SARA_RLOO = {"preset": "sara", "fusion": "leave_one_out", "normaliser": "none"}
BIAS_ROWS: tuple[tuple[object, str], ...] = (
    ("rloo", ""),
    ("jspo", ""),
    ("kae", ""),
    ("basis", ""),
    ("tether", ""),
    ("evpo", ""),
    ("remax", ""),
    ("poise", ""),
    ("v05_unbiased", ""),
    ("v05_loo", ""),
    ("v05_loo", "prompt"),
    ("v05", ""),
    ("dr_grpo", ""),
    ("beta_mix", ""),
    ("grpo", ""),
    ("dapo", ""),
    ("hora", ""),
    (HORA_RLOO, ""),
    ("cero", ""),
    (CERO_RLOO, ""),
    ("sara", ""),
    (SARA_RLOO, ""),
    ({**SARA_RLOO, "train_abandoned": True}, ""),
    ("reinforce_pp", ""),
    ("v0", ""),
    ("ebpo", ""),
    ("dbb", ""),
    ("spo", ""),
    ("ppo", ""),
)


def bias_table(samples: int, say: Callable[[str], None]) -> Iterator[str]:
    yield "| preset | scale | +- (1 s.e.) | scale by prompt type | off direction | verdict |"
    yield "|---|---|---|---|---|---|"
    for name, weighting in BIAS_ROWS:
        start = time.perf_counter()
        found = measure_bias(name, samples, settings=weighting)
        label = parse_strategy(name).label() + (" averaged per prompt" if weighting == "prompt" else "")
        yield (
            f"| {label} | {found.scale:.4f} | {found.error:.4f} | {found.low:.3f} to {found.high:.3f} | "
            f"{found.off:.4f} | {_verdict(name, found)} |"
        )
        say(f"{label}: scale {found.scale:.4f} +- {found.error:.4f} ({time.perf_counter() - start:.0f} s)")


def _verdict(name: object, found: Bias) -> str:
    normalised = parse_strategy(name).normaliser.type
    even = (found.high - found.low) / found.scale < 0.05
    if normalised != "none":
        return "rescaled" + ("" if even else ", prompts reweighted")
    if abs(found.scale - 1.0) < 3 * found.error:
        return "unbiased within the error"
    size = f"biased by {100 * (found.scale - 1.0):+.1f} %"
    return size if even else f"{size}, unevenly"


# ---- table 2: efficiency ------------------------------------------------------------------------------

PRIORS = tuple((sd, bias) for bias in (0.0, 0.2, 0.4) for sd in (0.0, 0.05, 0.1, 0.2, 0.3))
"""Prior error: (sd, bias) in pass-rate units, clipped to [0, 1]."""

FIXED4 = {"type": "fixed", "group_size": 4}
ALONE = {"prior": "global", "fusion": "prior_only", "budget": FIXED4}
V05_FIXED = {"prior": "global", "fusion": "tested", "budget": FIXED4}
EFFICIENCY_ROWS: tuple[tuple[str, object], ...] = (
    ("oracle: true pass rate", ALONE),
    ("control: prior alone", ALONE),
    ("control: global mean", ALONE),
    ("control: group mean, k=4", {"preset": "dr_grpo", "group_size": 4}),
    ("rloo, k=4", {"preset": "rloo", "group_size": 4}),
    ("rloo, k=16", {"preset": "rloo", "group_size": 16}),
    ("grpo, dr_grpo, reinforce_pp, k=16", "dr_grpo"),
    ("dapo, k=16", "dapo"),
    ("hora, mean k=16", "hora"),
    ("cero, mean k=16", "cero"),
    ("sara, k=16", "sara"),
    ("remax", "remax"),
    ("jspo, k=4", "jspo"),
    ("v0, mean k=16", {"preset": "v0", "high": 64}),
    ("v05, k=4 to 16", "v05"),
    ("v05_loo", "v05_loo"),
    ("v05_unbiased", "v05_unbiased"),
    ("tested, fixed k=4", V05_FIXED),
    ("tested, exact, fixed k=4", {**V05_FIXED, "fusion": {"type": "tested", "test": "exact"}}),
    ("beta_mix, n0=4, k=4", "beta_mix"),
    ("beta_mix, n0=8, k=4", {"preset": "beta_mix", "n0": 8}),
    ("ebpo, k=8", "ebpo"),
    ("dbb, k=8", "dbb"),
    ("kae, k=4", "kae"),
    ("basis", "basis"),
    ("tether, rho of one step, k=4", {"preset": "tether", "decay": 0.0}),
    ("evpo, k=4", "evpo"),
    ("poise, k=2", "poise"),
    ("ppo", "ppo"),
    ("spo", "spo"),
)
"""(name, strategy) of each row. Rows poise and ppo read the given prior through prior_only, as spo does, and
tether and evpo read it in place of a critic."""


class Efficiency(NamedTuple):
    mse: float
    """Mean of (baseline - pass rate)^2 over trained rollouts."""
    noise: float
    """E[(r - b)^2] / scale^2 / E[p (1 - p)] * spent / trained; 1 for the oracle."""
    spent: float
    """Rollouts paid per prompt."""


def measure_efficiency(
    name: str, strategy: object, sd: float, bias: float, prompts: int, seed: int = 0
) -> Efficiency:
    """Measure one cell of table 2: about `prompts` prompts under a prior of known error."""
    rng = np.random.default_rng(seed)
    config = parse_strategy(strategy)
    # Room for 4 rollouts of each prompt; `weighted` chooses out of a pool four times as large.
    total = 4 * prompts
    pool = total * (4 if config.budget.type == "weighted" else 1)
    rate_C = rng.beta(A, B, pool)
    prior_C = wrong_prior(rate_C, sd, bias, rng)
    if name.startswith("oracle"):
        prior_C = rate_C
    elif name == "control: global mean":
        prior_C = np.full(pool, A / (A + B))
    plain = config.model_copy(update={"warmup": None})
    built = plain.build(prior=_given(config.prior.type, prior_C))
    if not isinstance(built, Composed):
        raise TypeError(f"{name}: is not a Composed strategy; table 2 replaces the prior of one")
    prepare(built, coin(rate_C), pool, total, rng)
    batch, _ = play(built, coin(rate_C), pool, total, rng)
    groups = Groups.of(batch, built.scale)
    baseline = built.fusion.fuse(groups, built.prior.predict(batch))
    used = np.flatnonzero(baseline.scored_N)
    reward, guess = batch.correct_N[used], baseline.mean_N[used]
    rate = rate_C[batch.prompt_id_P][batch.prompt_N][used]
    scale = float(((reward - guess) * (reward - rate)).mean() / ((reward - rate) ** 2).mean())
    noise = float(((reward - guess) ** 2).mean()) / scale**2 / float((rate * (1.0 - rate)).mean())
    paid = batch.rollouts / len(used)
    return Efficiency(float(((guess - rate) ** 2).mean()), noise * paid, batch.rollouts / batch.prompts)


def efficiency_tables(prompts: int, say: Callable[[str], None]) -> tuple[list[str], list[str]]:
    head = (
        "| strategy | rollouts per prompt | " + " | ".join(f"{sd:g}, {bias:+g}" for sd, bias in PRIORS) + " |"
    )
    rule = "|---|---|" + "---|" * len(PRIORS)
    mse, noise = [head, rule], [head, rule]
    for name, strategy in EFFICIENCY_ROWS:
        start = time.perf_counter()
        cells = [measure_efficiency(name, strategy, sd, bias, prompts) for sd, bias in PRIORS]
        spent = sorted({f"{c.spent:.1f}" for c in cells}, key=float)
        span = spent[0] if len(spent) == 1 else f"{spent[0]} to {spent[-1]}"
        mse.append(f"| {name} | {span} | " + " | ".join(f"{c.mse:.4f}" for c in cells) + " |")
        noise.append(f"| {name} | {span} | " + " | ".join(f"{c.noise:.3f}" for c in cells) + " |")
        say(f"{name} ({time.perf_counter() - start:.0f} s)")
    return mse, noise


# ---- the page -----------------------------------------------------------------------------------------

PAGE = """# Strategy tables

Made by `python -m benchmarks.strategies` with fixed seeds; do not edit. Rewards are in [0, 1].

## 1. Is the gradient right?

A softmax bandit: {types} types of prompts with pass rates from .08 to .92, {actions} answers each,
two of them right. Its gradient is known in closed form. Each row takes {samples:,} rollouts,
{total:,} a step, with the preset at its defaults. Given priors are off by a normal error of sd .1. The
stub probe and the stub critic give half of their own rollout's reward away. `scale` is the
estimated over the true gradient, along the true one. `scale by prompt type` shows whether prompts
are reweighted. `off direction` is the relative rest (sampling noise keeps it above 0). The gradient
of a type is the sum over trained rollouts divided by the sum of their weights. `tether` has seen
one step before it is measured, in both tables.

{bias}

What to read from it. A baseline that contains the scored rollout shrinks the gradient (a group mean
at k = 16 by 1/16). Sequential stopping depends on the rewards and stretches the gradient by some 3
%, which leave-one-out does not repair. The per-round form (`v05_unbiased`) repairs both. Dividing
by the group's std reweights prompts by design; that is a choice and not an error. `poise` and `ppo`
stay on the true direction although what their stubs read knows the reward: leave-one-out and token
order keep it out of the baseline. `hora`, `cero` and `sara` divide as `grpo` does; the rows under
leave-one-out show what their budgets do. `hora` sizes a group by its own probes and is short by
about .1 %. `cero` sizes it by {visits} earlier visits, and is unbiased. `sara` drops the prompts whose
probes are nearly all equal, and with them rollouts that would have counted as small gradients: what
it keeps is too long by some 10 %, most of all for very hard and very easy prompts. Training the
abandoned probes leaves -3 %.

## 2. What does a rollout buy?

About {prompts:,} prompts per cell, pass rates Beta(1.2, 2.2). Columns: error of the given prior (sd,
bias) in pass-rate units, clipped to [0, 1]. Presets run at their defaults. A preset without a given
prior has the same numbers throughout.

Mean squared error of the baseline over trained rollouts:

{mse}

Gradient noise per rollout spent, E[(r - b)^2] / scale^2 / E[p (1 - p)] x spent / trained. The
oracle has 1, and lower is better. `scale` = Cov(r - b, r) / Var r makes self-coupled baselines
comparable: without it a group mean at k = 4 would look better than the oracle.

{noise}

What this does not show: DAPO trains on mixed groups only and V0 moves rollouts between prompts, so
their populations differ (noise is relative to the trained prompts' own variance). A dropped group
also saves the learner's time. SPO samples undecided prompts more often. ReMax pays every second
rollout for a greedy answer. For the speed of these parts, run `python -m benchmarks.fusion_speed`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", type=int, default=4_000_000, help="rollouts per row of table 1")
    parser.add_argument("--prompts", type=int, default=50_000, help="prompts per cell of table 2")
    parser.add_argument("--out", type=Path, default=DOC)
    args = parser.parse_args()
    bias = "\n".join(bias_table(args.samples, print))
    mse, noise = efficiency_tables(args.prompts, print)
    page = PAGE.format(
        types=TYPES,
        actions=ACTIONS,
        samples=args.samples,
        total=TOTAL,
        visits=VISITS,
        prompts=args.prompts,
        bias=bias,
        mse="\n".join(mse),
        noise="\n".join(noise),
    )
    args.out.write_text(page)


if __name__ == "__main__":
    main()
