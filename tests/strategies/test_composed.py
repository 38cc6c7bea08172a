"""Scores, and what a budget is shown, by hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.strategies.made import (
    LEFT,
    Asks,
    Blind,
    Foresees,
    ForeseesNear,
    Says,
    SaysByGreedy,
    batch_of,
    per_prompt,
    pool,
)
from trainables.errors import StrategyError
from trainables.strategies.batch import (
    Batch,
    CriticNeeds,
    FeatureNeeds,
    Kind,
    Needs,
    Stats,
)
from trainables.strategies.budget.fixed import Fixed
from trainables.strategies.composed import Composed
from trainables.strategies.estimators.gae import Gae
from trainables.strategies.fusion.base import Baseline
from trainables.strategies.fusion.beta import BetaCounts
from trainables.strategies.fusion.leave_one_out import LeaveOneOut
from trainables.strategies.fusion.prior_only import PriorOnly
from trainables.strategies.groups import Groups
from trainables.strategies.normalisers import BatchStd
from trainables.strategies.priors.base import Prior
from trainables.strategies.scale import UNIT, Scale
from trainables.strategies.value_estimate import ValueEstimate

# ---- scores -------------------------------------------------------------------------------------------


def test_scores_are_normalised_and_carry_everybodys_notes() -> None:
    batch = batch_of([[1.0, 0.0], [1.0, 1.0]])
    budget = Asks()
    strategy = Composed(
        Says(per_prompt(0.5, 0.25)), PriorOnly(), budget, normaliser=BatchStd(epsilon=1.0), scale=UNIT
    )
    scores = strategy.score(batch)
    bare = np.array([0.5, -0.5, 0.75, 0.75])
    np.testing.assert_allclose(scores.advantage_N, bare / (bare.std(ddof=1) + 1.0))
    assert scores.weight_N.tolist() == [1.0] * 4
    assert scores.advantage_tokens is None
    assert scores.value_targets is not None
    assert [part.tolist() for part in scores.value_targets] == [[0.25]] * 4
    assert not scores.equal_prompts
    notes = scores.diagnostics
    assert (notes["said"], notes["asked"], notes["shortfall"]) == (7.0, 8.0, 0.125)
    assert notes["adv_var_over_reward_var"] == pytest.approx(bare.var() / batch.reward_N.var())
    (progress,) = budget.shown
    assert progress.prior_P.tolist() == [0.5, 0.25]
    assert progress.fusion is strategy.fusion
    assert (progress.rollout_budget.rollouts, progress.rollout_budget.rounds) == (0, 0)


def test_weights_by_prompt_share_the_mass_of_the_scored_rollouts() -> None:
    """Five scored rollouts of two prompts: 2.5 each. The lone prompt has no baseline and no share."""
    strategy = Composed(fusion=LeaveOneOut(), weighting="prompt")
    scores = strategy.score(batch_of([[1.0, 0.0, 1.0, 0.0], [1.0], [0.0]]))
    np.testing.assert_allclose(scores.weight_N, [1.0] * 4 + [0.0, 0.0])
    scores = strategy.score(batch_of([[1.0, 0.0, 1.0], [1.0, 0.0], [0.0]]))
    np.testing.assert_allclose(scores.weight_N, [2.5 / 3] * 3 + [1.25] * 2 + [0.0])
    assert scores.equal_prompts
    assert Composed(fusion=LeaveOneOut()).score(batch_of([[1.0], [0.0]])).weight_N.tolist() == [0.0, 0.0]
    assert strategy.score(batch_of([[1.0], [0.0]])).weight_N.tolist() == [0.0, 0.0]


def test_shaping_has_its_own_baseline_and_a_lone_rollout_that_of_the_others() -> None:
    """Shaping -.3, 0, -.6 in the group of three and -.9 alone: the others' mean is -.9 / 3."""
    batch = batch_of([[1.0, 1.0, 0.0], [1.0]])
    batch = replace(batch, reward_N=batch.correct_N - np.array([0.3, 0.0, 0.6, 0.9]))
    prior = Says(per_prompt(0.5, 0.5))
    bare = np.array([0.5, 0.5, -0.5, 0.5])
    group = Composed(prior, BetaCounts(n0=1e12)).score(batch).advantage_N - bare
    np.testing.assert_allclose(group, [0.0, 0.3, -0.3, -0.6], atol=1e-9)
    others = Composed(prior, PriorOnly()).score(batch).advantage_N - bare
    np.testing.assert_allclose(others, [0.0, 0.45, -0.45, -0.6], atol=1e-9)
    alone = replace(batch_of([[1.0]]), reward_N=np.array([0.75]))
    assert Composed(Says(per_prompt(0.5)), PriorOnly()).score(alone).advantage_N.tolist() == [0.25]


def test_rollouts_that_the_prior_could_not_read_are_not_trained() -> None:
    batch = batch_of([[1.0, 0.0, 1.0]])
    silent_N = np.array([False, True, False])
    estimate = ValueEstimate(mean_N=np.array([0.5, 77.0, 0.25]), silent_N=silent_N)
    scores = Composed(Says(estimate), PriorOnly()).score(batch)
    assert scores.weight_N.tolist() == [1.0, 0.0, 1.0]
    assert scores.advantage_N.tolist() == [0.5, 0.0, 0.75]


@pytest.mark.parametrize(
    ("estimate", "prompt"),
    [
        (ValueEstimate(mean_P=np.array([0.5, 1.5])), 71),
        (ValueEstimate(mean_N=np.array([0.5, 2.0, 0.5])), 70),
        (ValueEstimate(mean_N=np.array([0.9, 1.05, 0.5])), 70),
        (ValueEstimate(mean_N=np.array([0.5, 0.5, -1.0]), silent_N=np.array([True, False, False])), 71),
    ],
)
def test_a_prior_outside_the_range_is_refused_by_its_prompt(estimate: ValueEstimate, prompt: int) -> None:
    with pytest.raises(StrategyError, match=f"^prompt {prompt}: prior"):
        Composed(Says(estimate), PriorOnly()).score(batch_of([[1.0, 0.0], [1.0]]))


def test_a_silent_prompt_and_one_without_rollouts_may_say_anything() -> None:
    batch = batch_of([[1.0, 0.0], [1.0], [0.0]], verdict_N=np.array([0, 0, 0, 1]))
    estimate = per_prompt(0.5, np.nan, 99.0, silent_P=np.array([False, True, False]))
    scores = Composed(Says(estimate), PriorOnly()).score(batch)
    assert scores.weight_N.tolist() == [1.0, 1.0, 0.0, 0.0]


def test_token_values_become_advantages_and_targets_of_judged_rollouts() -> None:
    """lambda = 1: reward minus value at every token; the second rollout has no verdict and no target."""
    batch = batch_of([[1.0, 0.0]], length_N=np.array([2, 1]), verdict_N=np.array([0, 1]))
    values = (np.array([0.25, 0.5]), np.array([0.5]))
    strategy = Composed(Says(ValueEstimate(tokens=values)), PriorOnly(), estimator=Gae())
    scores = strategy.score(batch)
    assert scores.advantage_tokens is not None
    assert scores.value_targets is not None
    np.testing.assert_allclose(scores.advantage_tokens[0], [0.75, 0.5])
    np.testing.assert_allclose(scores.value_targets[0], [1.0, 1.0])
    assert np.isnan(scores.value_targets[1]).all()
    assert scores.weight_N.tolist() == [1.0, 0.0]
    kept = Composed(Says(ValueEstimate(tokens=values)), BetaCounts(), estimator=Gae()).score(batch)
    assert kept.advantage_tokens is None, "only a fusion that keeps token values passes them on"


@dataclass
class Learns(Prior):
    """A prior, fusion or budget that counts its steps, and in a fusion gives a baseline per token."""

    remembers: bool = True
    seen: list[Any] = field(default_factory=list)
    leaves_out: bool = True

    def predict(self, batch: Batch) -> ValueEstimate | None:
        return per_prompt(*[0.5] * batch.prompts)

    def fuse(self, groups: Groups, estimate: ValueEstimate | None) -> Baseline:
        assert groups.length_N is not None
        tokens = tuple(np.full(int(length), 0.25) for length in groups.length_N)
        return Baseline(np.full(len(tokens), 0.5), groups.mask_N, None, tokens, {"fused": 9.0})

    def others(self, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
        return groups.others()

    def observe(self, *shown: Any) -> None:
        self.seen.append(shown)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": len(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = [None] * state["steps"]


@dataclass
class LearningBudget(Asks):
    remembers: ClassVar[bool] = True
    steps: list[Any] = field(default_factory=list)

    def observe(self, *shown: Any) -> None:
        self.steps.append(shown)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": len(self.steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = [None] * state["steps"]


class ForgetfulBudget(LearningBudget):
    remembers: ClassVar[bool] = False


def learning(remembers: bool = True) -> Composed:
    fusion: Any = Learns(remembers)
    return Composed(
        Learns(), fusion, LearningBudget() if remembers else ForgetfulBudget(), scale=Scale(0.0, 2.0)
    )


def test_what_remembers_learns_after_the_step_and_is_in_the_state() -> None:
    strategy, batch, update = learning(), batch_of([[1.0, 0.0]]), Stats(3)
    strategy.observe(batch, update)
    parts: Any = (strategy.prior, strategy.fusion, strategy.budget)
    assert parts[0].seen == [(batch, update)]
    ((groups, estimate),) = parts[1].seen
    assert groups.sum_P.tolist() == [1.0]
    assert groups.scale == Scale(0.0, 2.0)
    assert estimate.mean_P.tolist() == [0.5]
    assert parts[2].steps == [(batch, update, Scale(0.0, 2.0))]
    state = strategy.state_dict()
    assert state == {"prior": {"steps": 1}, "fusion": {"steps": 1}, "budget": {"steps": 1}}
    again = learning()
    again.load_state_dict(state)
    assert again.state_dict() == state
    with pytest.raises(StrategyError, match=r"correct 7.0"):
        strategy.observe(batch_of([[7.0]]), update)


def test_what_does_not_remember_is_not_in_the_state() -> None:
    strategy = learning(remembers=False)
    strategy.observe(batch_of([[1.0, 0.0]]), Stats(0))
    assert strategy.state_dict() == {"prior": {"steps": 1}}
    strategy.load_state_dict({"prior": {"steps": 4}})
    assert strategy.state_dict() == {"prior": {"steps": 4}}
    fusion: Any = strategy.fusion
    assert fusion.seen == []


def test_a_fusion_with_a_baseline_per_token_makes_advantages_of_tokens() -> None:
    """Reward minus .25 at each token; shaping -.5 of the first counts -.5 there, +.5 beside."""
    batch = batch_of([[1.0, 0.0]], length_N=np.array([2, 1]))
    scores = learning().score(batch)
    assert scores.advantage_tokens is not None
    assert [part.tolist() for part in scores.advantage_tokens] == [[0.75, 0.75], [-0.25]]
    assert scores.advantage_N.tolist() == [0.5, -0.5]
    assert (scores.diagnostics["fused"], scores.equal_prompts) == (9.0, False)
    shaped = learning().score(replace(batch, reward_N=np.array([0.5, 0.0])))
    assert shaped.advantage_tokens is not None
    assert [part.tolist() for part in shaped.advantage_tokens] == [[0.25, 0.25], [0.25]]
    critic: Any = Learns()
    critic.targets = lambda batch: (np.ones(2), np.ones(1))
    strategy = replace(learning(), prior=critic, normaliser=BatchStd(epsilon=1.0), weighting="prompt")
    scores = strategy.score(batch)
    flat = np.array([0.75, 0.75, -0.25])
    assert scores.advantage_tokens is not None
    np.testing.assert_allclose(np.concatenate(scores.advantage_tokens), flat / (flat.std(ddof=1) + 1.0))
    np.testing.assert_allclose(scores.advantage_N, np.array([0.5, -0.5]) / (0.5**0.5 + 1.0))
    assert scores.value_targets is not None
    assert scores.equal_prompts
    assert scores.weight_N.tolist() == [1.0, 1.0]


# ---- what a budget is shown ---------------------------------------------------------------------------


def test_a_budget_with_foresight_is_shown_estimates_of_the_pool() -> None:
    prior, budget = Says(per_prompt(*[0.5] * 20)), Foresees()
    requests = Composed(prior, PriorOnly(), budget, scale=Scale(0.0, 2.0)).select(pool(20), LEFT, 6)
    assert requests.prompt_R.tolist() == [40, 41]
    (outlook,) = budget.shown
    assert outlook.estimate is prior.estimate
    assert outlook.rollout_budget is LEFT
    assert (outlook.wanted, outlook.overhead, outlook.scale) == (6, 0, Scale(0.0, 2.0))
    assert prior.pool == [(list(range(40, 60)), list(range(20)))]
    with pytest.raises(StrategyError, match=r"prompt 41: prior 1.5"):
        Composed(Says(per_prompt(0.5, 1.5)), PriorOnly(), budget).select(pool(2), LEFT)


def test_a_budget_that_reads_the_next_prompts_only_is_shown_one_per_rollout() -> None:
    prior, budget = Says(per_prompt(*[0.5] * 10)), ForeseesNear()
    Composed(prior, PriorOnly(), budget).select(pool(20), LEFT)
    assert prior.pool == [(list(range(40, 50)), list(range(10)))]
    assert len(budget.shown[0].pool.prompt_C) == len(budget.shown[0].pool.stratum_C) == 10
    blind = Asks()
    Composed(prior, PriorOnly(), blind).select(pool(20), LEFT)
    assert blind.shown[0].estimate is None
    assert len(prior.pool) == 1, "without foresight the prior is not asked"


def test_a_prior_with_an_extra_rollout_gets_one_untrained_per_prompt() -> None:
    prior, budget = SaysByGreedy(per_prompt(0.5, 0.5)), Asks()
    requests = Composed(prior, PriorOnly(), budget).select(pool(4), LEFT)
    assert requests.prompt_R.tolist() == [40, 41, 40, 41]
    assert requests.count_R.tolist() == [3, 3, 1, 1]
    assert requests.kind_R.tolist() == [Kind.SAMPLE, Kind.SAMPLE, Kind.GREEDY, Kind.GREEDY]
    assert requests.trainable_R.tolist() == [True, True, False, False]
    assert budget.shown[0].overhead == 1


def test_a_budget_that_reads_the_prior_decides_by_it() -> None:
    batch, budget = batch_of([[1.0, 0.0], [1.0]]), Asks()
    strategy = Composed(Says(per_prompt(0.5, 0.25)), PriorOnly(), budget)
    assert strategy.decide(batch, LEFT).new_prompts == 5
    (progress,) = budget.shown
    assert progress.prior_P.tolist() == [0.5, 0.25]
    assert (progress.batch, progress.rollout_budget, progress.overhead) == (batch, LEFT, 0)
    assert progress.groups.sum_P.tolist() == [1.0, 1.0]
    blind = Blind()
    Composed(Says(per_prompt(0.5, 1.5)), PriorOnly(), blind).decide(batch, LEFT)
    assert blind.shown[0].prior_P is None
    with pytest.raises(StrategyError, match="outside"):
        strategy.decide(batch_of([[2.0], [0.0]]), LEFT)


def test_trajectories_are_wanted_while_deciding_only_where_the_budget_reads_what_is_read_of_them() -> None:
    features, values = Needs(features=FeatureNeeds()), Needs(values=CriticNeeds())
    for wants in (features, values):
        assert Composed(Says(None, wants), PriorOnly(), Asks()).needs() == replace(wants, at_decide=True)
        assert Composed(Says(None, wants), PriorOnly(), Fixed()).needs() == wants
    assert Composed(Says(None), PriorOnly(), Asks()).needs() == Needs()
