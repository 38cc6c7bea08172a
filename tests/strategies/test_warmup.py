"""A warm-up: whose turn it is, and what each strategy is given meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from tests.strategies.made import (
    LEFT,
    Asks,
    Says,
    batch_of,
    per_prompt,
    pool,
)
from trainables.strategies.batch import (
    CriticNeeds,
    Needs,
    Scores,
    Stats,
)
from trainables.strategies.composed import Composed
from trainables.strategies.config import WarmupConfig, parse_strategy
from trainables.strategies.estimators.gae import Gae
from trainables.strategies.fusion.leave_one_out import LeaveOneOut
from trainables.strategies.fusion.prior_only import PriorOnly
from trainables.strategies.value_estimate import ValueEstimate
from trainables.strategies.warmup import Warmup
from trainables.value_models.config import EncoderConfig
from trimtab.errors import SpecError


def test_a_warm_up_hands_over_after_its_updates_and_trains_the_critic_from_the_start() -> None:
    config = parse_strategy({"preset": "ppo", "warmup": {"updates": 2, "strategy": "rloo"}}).warmup
    assert isinstance(config, WarmupConfig)
    batch = batch_of([[1.0, 0.0], [1.0, 0.0]])
    first = Composed(Says(None), LeaveOneOut())
    main = Composed(Says(per_prompt(0.25, 0.5), Needs(values=CriticNeeds())), PriorOnly())
    warmup = Warmup(config, first, main)

    def scored(scores: Scores) -> tuple[list[float], bool]:
        return scores.advantage_N.tolist(), scores.value_targets is not None

    assert warmup.needs() == main.needs()
    for seen in range(2):
        assert warmup.seen == seen
        assert warmup.active is first
        assert scored(warmup.score(batch))[0] == [1.0, -1.0, 1.0, -1.0]
        other = Warmup(config, first, replace(main, prior=Says(per_prompt(0.25, 0.5))), seen)
        assert other.score(batch).advantage_N.tolist() == [1.0, -1.0, 1.0, -1.0]
        warmup.observe(batch, Stats(seen))
    assert warmup.active is main
    assert scored(warmup.score(batch)) == ([0.75, -0.25, 0.5, -0.5], True)
    assert warmup.state_dict() == {"first": {"prior": {}}, "main": {"prior": {}}, "seen": 2}
    again = Warmup(config, first, main)
    again.load_state_dict({**warmup.state_dict(), "seen": np.int64(2)})
    assert again.seen == 2
    assert again.active is main


def test_a_warm_up_without_a_critic_returns_the_scores_of_the_one_in_turn() -> None:
    config = parse_strategy({"preset": "poise", "warmup_updates": 1}).warmup
    assert isinstance(config, WarmupConfig)
    batch = batch_of([[1.0, 0.0]])
    first_budget, main_budget = Asks(), Asks()
    first = Composed(Says(None), LeaveOneOut(), first_budget)
    main = Composed(Says(per_prompt(0.25)), PriorOnly(), main_budget)
    warmup = Warmup(config, first, main)
    warmup.select(pool(3), LEFT, 2)
    assert warmup.decide(batch, LEFT).new_prompts == 5
    assert (len(first_budget.shown), len(main_budget.shown)) == (2, 0)
    assert first_budget.shown[0].wanted == 2
    assert warmup.score(batch).advantage_N.tolist() == [1.0, -1.0]
    warmup.seen = 1
    warmup.decide(batch, LEFT)
    assert len(main_budget.shown) == 1


def test_a_critic_is_trained_by_its_own_targets_during_the_warm_up() -> None:
    config = parse_strategy({"preset": "poise", "warmup_updates": 1}).warmup
    assert isinstance(config, WarmupConfig)
    tokens = ValueEstimate(tokens=(np.array([0.25, 0.5]), np.array([0.5])))
    main = Composed(Says(tokens, Needs(values=CriticNeeds())), PriorOnly(), estimator=Gae())
    warmup = Warmup(config, Composed(fusion=LeaveOneOut()), main)
    scores = warmup.score(batch_of([[1.0, 0.0]], length_N=np.array([2, 1])))
    assert scores.advantage_N.tolist() == [1.0, -1.0]
    assert scores.advantage_tokens is None
    assert scores.value_targets is not None
    assert [part.tolist() for part in scores.value_targets] == [[1.0, 1.0], [0.0]]


def test_prompt_vectors_reach_the_strategies_that_asked_for_them() -> None:
    @dataclass
    class Reads(Says):
        given: list[Any] = field(default_factory=list)

        def provide(self, vectors: Any) -> None:
            self.given.append(vectors)

    config = parse_strategy({"preset": "poise", "warmup_updates": 1}).warmup
    assert isinstance(config, WarmupConfig)
    asks, does_not = Reads(None, Needs(encoder=EncoderConfig())), Reads(None)
    vectors: Any = object()
    for first, main in ((asks, does_not), (does_not, asks)):
        Warmup(config, Composed(first), Composed(main)).provide(vectors)
    assert asks.given == [vectors, vectors]
    assert does_not.given == []


def test_a_preset_without_a_place_for_a_warm_up_says_so() -> None:
    with pytest.raises(SpecError, match="updates"):
        parse_strategy({"preset": "ppo", "warmup": {"updates": 0, "strategy": "rloo"}})
