"""What a step asks of what is lent to it: log-probs, states, weights and seeds (see test_stepping.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainables.test_stepping import TOKENS, Parts, Plan, World, settings
from trainables.learner.features import FeaturePlan
from trainables.learner.results import Forward
from trainables.loop.rlvr import run_trial, train_step
from trainables.loop.state import Run
from trainables.strategies.batch import FeatureNeeds, Needs


@dataclass
class Keeping(Parts):
    """Parts that keep what each call was given."""

    plans: list[Any] = field(default_factory=list)
    references: list[Any] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    def reference_logprobs(self, tokens: Any) -> np.ndarray:
        return np.full(tokens.response_tokens, -0.5, np.float32)

    def forward(self, tokens: Any, plan: Any = None) -> Forward:
        self.plans.append(plan)
        return super().forward(tokens)

    def update(self, *given: Any) -> Any:
        if isinstance(given[0], Parts):
            self.versions.append(given[1])
        else:
            self.references.append(given[0].reference_logprob_M)
        return super().update(*given)

    def save(self, folder: Path) -> None:
        self.folders.append(folder)

    save_pretrained = save
    load = save


@pytest.fixture
def penalties() -> list[float]:
    return []


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, penalties: list[float]) -> World:
    here = World(Keeping(), Plan(), tmp_path, settings())

    def build(_: Any, penalty: float) -> Plan:
        penalties.append(penalty)
        return here.plan

    monkeypatch.setattr(type(here.config.strategy), "build", build)
    return here


def kept(world: World) -> Keeping:
    assert isinstance(world.parts, Keeping)
    return world.parts


def test_the_updates_read_the_reference_where_the_loss_has_a_kl(world: World) -> None:
    world.config = settings(loss={"kl": {"coefficient": 0.1}})
    train_step(world.started())
    (reference_M,) = kept(world).references
    assert reference_M.tolist() == [-0.5] * (8 * TOKENS)
    assert world.parts.resets[0][-1] == "tiny", "the weights that the run starts from"


def test_every_step_makes_one_more_version_of_the_weights(world: World) -> None:
    world.run()
    assert kept(world).versions == [0, 1, 2, 3, 4, 5]


def test_seeds_of_rollouts_depend_on_the_run_and_the_step(world: World) -> None:
    def drawn(seed: int, step: int) -> list[int]:
        world.parts, world.plan = Keeping(), Plan()
        here = Run.start(world.parts.lease(), world.config, seed, world.folder)
        here.order = Run.start(Parts().lease(), world.config, 3, world.folder).order
        here.counters.step = step
        train_step(here)
        return world.parts.draws[0].seed_R.tolist()

    first = drawn(3, 0)
    assert drawn(3, 0) == first
    assert not set(drawn(4, 0)) & set(first)
    assert not set(drawn(3, 1)) & set(first)


def test_a_strategy_that_reads_states_gets_those_it_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, asked = object(), []
    monkeypatch.setattr(FeaturePlan, "of", lambda *given: asked.append(given) or plan)
    world.plan.asks = Needs(features=FeatureNeeds(depth=0.25))
    here = world.started()
    ((needs, layers, tokenizer),) = asked
    assert (needs, layers, tokenizer) == (FeatureNeeds(depth=0.25), 2, world.parts)
    assert here.feature_plan is plan
    train_step(here)
    # The step's rollouts are read with the plan, and the probe of the new weights without.
    assert kept(world).plans == [plan, None]


def test_a_strategy_learns_how_much_shaping_may_take_off(world: World, penalties: list[float]) -> None:
    world.config = settings(loss={"overlong_buffer": 4, "overlong_penalty": 0.25})
    world.started()
    assert penalties == [0.25]


def test_a_step_measures_each_of_its_parts_once(world: World) -> None:
    train_step(world.started())
    (metrics,) = world.of("step", "metrics")
    assert {name for name in metrics if name.startswith("seconds/")} == {
        f"seconds/{part}"
        for part in (
            "select", "generate", "verify", "decide", "logprobs", "score", "gradient_noise", "update",
            "critic", "sync", "observe", "step",
        )
    }  # fmt: skip


def test_a_checkpoint_holds_the_learner_the_tokenizer_and_all_that_was_spent(world: World) -> None:
    world.run()
    learner, tokenizer = kept(world).folders
    assert tokenizer == learner / "model"
    world.parts = Keeping()
    again = world.started()
    assert [folder.name for folder in kept(world).folders] == ["checkpoint-5"]
    spent = again.counters
    assert (spent.step, spent.version, spent.rollouts, spent.evaluated_at) == (5, 5, 40, 40)
    assert (spent.tokens, spent.learner_tokens) == (40 * TOKENS, 40 * (TOKENS + 2))
    assert spent.seconds > 0
    assert len(world.plan.batches) == 5
    assert again.step_rollouts() == 0


def test_a_run_that_is_continued_after_its_end_is_finished_at_once(world: World) -> None:
    world.run()
    world.parts = Keeping()
    assert run_trial(world.parts.lease(), world.config, 3, world.folder) == "finished"
    assert world.parts.draws == []
