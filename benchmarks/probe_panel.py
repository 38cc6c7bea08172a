"""A strategy that compares priors on the same rollouts of one training run. It trains with leave-one-out.

Use it with `strategy: {custom: "benchmarks.probe_panel:Panel", params: {...}}` in a spec;
`benchmarks.probe_table` reads the journals. Every prior sees what it would see as the trial's own prior. It
learns in `observe` only, and is scored on the step's rewards before that: out of sample, at equal rollouts.
The learner trains the critic.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from trainables.strategies.batch import (
    Batch,
    Decision,
    FloatArray,
    Needs,
    Pool,
    Requests,
    RolloutBudget,
    Scores,
    Stats,
)
from trainables.strategies.config import parse_strategy
from trainables.strategies.groups import Groups
from trainables.strategies.priors.base import Prior, PriorMember
from trainables.strategies.priors.critic import CriticPrior
from trainables.strategies.priors.global_mean import GlobalPrior
from trainables.strategies.priors.probe import ProbePrior
from trainables.strategies.priors.strata import StrataPrior
from trainables.strategies.priors.tracker import TrackerPrior
from trainables.strategies.scale import UNIT
from trainables.strategies.value_estimate import ValueEstimate


class Panel:
    """RLOO with `group_size` rollouts, with each prior's errors on the step's rewards in its diagnostics.

    They are named `<prior>_mae`, `<prior>_mse` and `<prior>_pearson`.
    """

    def __init__(
        self, group_size: int = 4, level: Literal["token", "prompt"] = "token", critic_lr: float = 5e-5
    ) -> None:
        self.own = parse_strategy({"preset": "rloo", "group_size": group_size}).build()
        members: dict[str, PriorMember] = {
            "probe": ProbePrior(survey=True),
            "probe_all_columns": ProbePrior(survey=True, pca_prompt=0, pca_response=0, penalty=1000.0),
            "probe_prompt": ProbePrior(survey=True, states="prompt"),
            "probe_auto": ProbePrior(survey=True, layer="auto"),
            "critic": CriticPrior(level=level, lr=critic_lr),
            "tracker": TrackerPrior(),
            "strata": StrataPrior(),
            "global": GlobalPrior(),
        }
        self.priors: dict[str, Prior] = {name: member.begin(UNIT) for name, member in members.items()}

    def needs(self) -> Needs:
        needs = self.own.needs()
        for prior in self.priors.values():
            needs = needs.union(prior.needs())
        return needs

    def select(self, pool: Pool, rollout_budget: RolloutBudget, wanted: int | None = None) -> Requests:
        return self.own.select(pool, rollout_budget, wanted)

    def decide(self, batch: Batch, rollout_budget: RolloutBudget) -> Decision:
        return self.own.decide(batch, rollout_budget)

    def score(self, batch: Batch) -> Scores:
        scores = self.own.score(batch)
        notes = dict(scores.diagnostics)
        groups = Groups.of(batch, UNIT)
        for name, estimate_N in self._estimates(batch, groups).items():
            notes |= errors(name, estimate_N, groups)
        probe = self.priors["probe"]
        notes |= {k: v for k, v in probe.metrics(batch).items() if k.startswith("layer_")}
        notes["probe_auto_layer"] = self.priors["probe_auto"].metrics(batch)["probe_layer"]
        return replace(scores, value_targets=self.priors["critic"].targets(batch), diagnostics=notes)

    def observe(self, batch: Batch, stats: Stats) -> None:
        self.own.observe(batch, stats)
        for prior in self.priors.values():
            prior.observe(batch, stats)

    def state_dict(self) -> dict[str, Any]:
        return {name: prior.state_dict() for name, prior in self.priors.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, prior in self.priors.items():
            prior.load_state_dict(state[name])

    def _estimates(self, batch: Batch, groups: Groups) -> dict[str, FloatArray]:
        """Return each prior's value estimate of each rollout, made without that rollout, (N,)."""
        found = {}
        for name, prior in self.priors.items():
            estimate = prior.predict(batch)
            if estimate is None:
                raise TypeError(f"{name} returned no value estimate")
            found[name] = estimate.for_rollouts(groups, leave_one_out=True)
            if name == "probe" and estimate.mean_N is not None:
                found["probe_one_other"] = next_of_group(estimate.mean_N, groups)
        if batch.values is not None:
            last_N = np.clip([value_T[-1] for value_T in batch.values], 0.0, 1.0)
            found["critic_last_token"] = ValueEstimate(mean_N=last_N).for_rollouts(groups, leave_one_out=True)
        count_N, sum_N = groups.others()
        found["others_mean"] = np.divide(sum_N, count_N, out=np.full(len(sum_N), np.nan), where=count_N > 0)
        found["one_other"] = next_of_group(groups.value_N, groups)
        return found


def next_of_group(value_N: FloatArray, groups: Groups) -> FloatArray:
    """Return the value of the next rollout of the same prompt, cyclically, as in a group of two, (N,)."""
    next_N = np.full(len(value_N), np.nan)
    for row in range(groups.prompts):
        members = np.flatnonzero((groups.prompt_N == row) & groups.mask_N)
        if len(members) > 1:
            next_N[members] = value_N[np.roll(members, -1)]
    return next_N


def errors(name: str, estimate_N: FloatArray, groups: Groups) -> dict[str, float]:
    """Return the mean absolute error, the mean squared error and Pearson's r against the rewards."""
    used_N = groups.mask_N & np.isfinite(estimate_N)
    estimate, reward = estimate_N[used_N], groups.value_N[used_N]
    notes = {f"{name}_mae": float(np.abs(estimate - reward).mean())}
    notes[f"{name}_mse"] = float(np.square(estimate - reward).mean())
    if estimate.std() > 1e-12 and reward.std() > 0:
        notes[f"{name}_pearson"] = float(np.corrcoef(estimate, reward)[0, 1])
    return notes
