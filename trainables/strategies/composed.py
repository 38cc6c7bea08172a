"""A strategy made of a prior, a fusion, a budget, an estimator and a normaliser."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from trainables.strategies.batch import (
    Batch,
    BoolArray,
    Decision,
    FloatArray,
    Needs,
    Pool,
    PromptVectors,
    Requests,
    RolloutBudget,
    Scores,
    Stats,
)
from trainables.strategies.budget.base import Budget, Outlook, Progress
from trainables.strategies.budget.fixed import Fixed
from trainables.strategies.diagnostics import describe
from trainables.strategies.estimators.base import Estimator
from trainables.strategies.estimators.monte_carlo import MonteCarlo
from trainables.strategies.fusion.base import Baseline, Fusion
from trainables.strategies.fusion.group_mean import GroupMean
from trainables.strategies.groups import Groups
from trainables.strategies.normalisers import NoNormaliser, Normaliser
from trainables.strategies.priors.base import Prior
from trainables.strategies.priors.none import NoPrior
from trainables.strategies.scale import UNIT, Scale, check_batch, check_estimate, verified_N
from trainables.strategies.value_estimate import ValueEstimate

NO_ROOM = RolloutBudget(rollouts=0, rounds=0, step=0, total=0)


@dataclass
class Composed:
    """The `Strategy` of one point in prior x fusion x budget. Prior and budget have state."""

    prior: Prior = field(default_factory=NoPrior)
    fusion: Fusion = field(default_factory=GroupMean)
    budget: Budget = field(default_factory=Fixed)
    estimator: Estimator = field(default_factory=MonteCarlo)
    normaliser: Normaliser = field(default_factory=NoNormaliser)
    weighting: Literal["rollout", "prompt"] = "rollout"
    scale: Scale = UNIT

    def needs(self) -> Needs:
        needs = self.prior.needs()
        return replace(needs, at_decide=True) if self.budget.reads_prior and _reads(needs) else needs

    def provide(self, vectors: PromptVectors) -> None:
        self.prior.provide(vectors)

    def select(self, pool: Pool, rollout_budget: RolloutBudget, wanted: int | None = None) -> Requests:
        estimate = None
        if self.budget.foresight:
            if not self.budget.whole_pool:
                # A pool holds many thousand prompts, and this budget reads one per rollout at most.
                near = rollout_budget.rollouts
                pool = replace(pool, prompt_C=pool.prompt_C[:near], stratum_C=pool.stratum_C[:near])
            estimate = self.prior.predict_prompts(pool.prompt_C, pool.stratum_C)
            if estimate is not None and estimate.mean_P is not None:
                check_estimate(estimate.mean_P, pool.prompt_C, self.scale)
        requests = self.budget.select(
            Outlook(pool, rollout_budget, wanted, self._overhead, estimate, self.scale)
        )
        return requests if self.prior.extra is None else _with_extra(requests, int(self.prior.extra))

    def decide(self, batch: Batch, rollout_budget: RolloutBudget) -> Decision:
        check_batch(batch, self.scale)
        groups = Groups.of(batch, self.scale)
        estimate = self._estimate(batch, groups) if self.budget.reads_prior else None
        return self.budget.decide(self._progress(batch, groups, estimate, rollout_budget))

    def score(self, batch: Batch) -> Scores:
        check_batch(batch, self.scale)
        groups = Groups.of(batch, self.scale)
        estimate = self._estimate(batch, groups)
        baseline = _spoken(self.fusion.fuse(groups, estimate), estimate)
        shaped = groups.with_values(batch.reward_N)
        scored_N = baseline.scored_N
        shaping_N = _shaping(batch, groups, self.fusion)
        advantage_N = np.where(scored_N, groups.value_N - baseline.mean_N + shaping_N, 0.0)
        normalised_N = self.normaliser.rollouts(advantage_N, shaped, scored_N)
        weight_N, equal = self._weights(groups, scored_N), self.weighting == "prompt"
        progress = self._progress(batch, groups, estimate, NO_ROOM)
        notes = describe(batch, groups, estimate, baseline, advantage_N, self.budget.shortfall(progress))
        notes |= self.budget.notes(progress)
        notes |= self.prior.metrics(batch)
        if estimate is None or estimate.tokens is None or not self.fusion.keeps_tokens:
            targets = self.prior.targets(batch)
            return Scores(normalised_N, weight_N, None, targets, notes, equal)
        advantages, targets = self.estimator.tokens(batch.reward_N, estimate.tokens)
        judged_N = verified_N(batch)
        targets = tuple(
            target if judged else np.full(len(target), np.nan)
            for target, judged in zip(targets, judged_N, strict=True)
        )
        advantages = self.normaliser.tokens(advantages, shaped, scored_N)
        return Scores(normalised_N, weight_N, advantages, targets, notes, equal)

    def observe(self, batch: Batch, stats: Stats) -> None:
        check_batch(batch, self.scale)
        self.prior.observe(batch, stats)
        self.budget.observe(batch, stats, self.scale)

    def state_dict(self) -> dict[str, Any]:
        state = {"prior": self.prior.state_dict()}
        return {**state, "budget": self.budget.state_dict()} if self.budget.remembers else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.prior.load_state_dict(state["prior"])
        if self.budget.remembers:
            self.budget.load_state_dict(state["budget"])

    @property
    def _overhead(self) -> int:
        return 0 if self.prior.extra is None else 1

    def _estimate(self, batch: Batch, groups: Groups) -> ValueEstimate | None:
        estimate = self.prior.predict(batch)
        if estimate is not None:
            mean_P = estimate.for_prompts(groups)
            speaks_P = groups.count_P > 0
            if estimate.silent_P is not None:
                speaks_P &= ~estimate.silent_P
            if estimate.silent_N is not None:
                speaks_P &= np.isfinite(mean_P)
            check_estimate(mean_P[speaks_P], batch.prompt_id_P[speaks_P], self.scale)
            if estimate.mean_N is not None:
                used_N = groups.mask_N if estimate.silent_N is None else groups.mask_N & ~estimate.silent_N
                id_N = batch.prompt_id_P[batch.prompt_N]
                check_estimate(estimate.mean_N[used_N], id_N[used_N], self.scale)
        return estimate

    def _progress(
        self, batch: Batch, groups: Groups, estimate: ValueEstimate | None, rollout_budget: RolloutBudget
    ) -> Progress:
        prior_P = estimate.for_prompts(groups) if estimate is not None and self.budget.reads_prior else None
        return Progress(batch, groups, rollout_budget, prior_P, self._overhead, self.fusion)

    def _weights(self, groups: Groups, scored_N: BoolArray) -> FloatArray:
        weight_N = scored_N.astype(np.float64)
        if self.weighting == "prompt":
            count_P = groups.total(weight_N)
            mean = weight_N.sum() / max(1, int((count_P > 0).sum()))
            weight_N *= mean / np.maximum(count_P, 1.0)[groups.prompt_N]
        return weight_N


def _reads(needs: Needs) -> bool:
    return needs.features is not None or needs.values is not None


def _spoken(baseline: Baseline, estimate: ValueEstimate | None) -> Baseline:
    """Leave rollouts untrained that the prior is silent about."""
    if estimate is None or estimate.silent_N is None:
        return baseline
    return replace(baseline, scored_N=baseline.scored_N & ~estimate.silent_N)


def _with_extra(requests: Requests, kind: int) -> Requests:
    """Return the requests and one untrained rollout of another kind for each of their prompts."""
    prompt = np.unique(requests.prompt_R)
    return Requests(
        prompt_R=np.concatenate([requests.prompt_R, prompt]),
        count_R=np.concatenate([requests.count_R, np.ones(len(prompt), np.int64)]),
        kind_R=np.concatenate([requests.kind_R, np.full(len(prompt), kind, np.int64)]),
        trainable_R=np.concatenate([requests.trainable_R, np.zeros(len(prompt), np.bool_)]),
    )


def _shaping(batch: Batch, groups: Groups, fusion: Fusion) -> FloatArray:
    """Return the shaping part of each advantage: shaping minus its own baseline, (N,).

    The prior speaks about correctness only, so shaping is centred by its group (without the rollout itself
    where the fusion leaves it out); a group of one by the other rollouts of the batch.
    """
    shaping = groups.with_values(batch.reward_N - groups.value_N)
    if not shaping.value_N.any():
        return np.zeros(len(shaping.value_N))
    count_N, sum_N = fusion.others(shaping)
    if not fusion.leaves_out:
        count_N, sum_N = count_N + 1.0, sum_N + shaping.value_N
    alone_N = shaping.count_P[groups.prompt_N] < 2
    used = max(1.0, float(groups.mask_N.sum()) - 1.0)
    rest_N = (shaping.value_N.sum() - shaping.value_N) / used
    return np.asarray(shaping.value_N - np.where(alone_N, rest_N, sum_N / np.maximum(count_N, 1.0)))
