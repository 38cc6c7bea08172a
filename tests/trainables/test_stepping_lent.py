"""What a step asks of what is lent to it: log-probs, states, weights, seeds (see test_stepping.py)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tests.trainables.test_stepping import TOKENS, Parts, Plan, World, settings
from trainables.errors import DivergedError, WeightSyncError
from trainables.learner import checkpoints
from trainables.learner.features import FeaturePlan
from trainables.learner.results import Forward
from trainables.loop.rlvr import run_trial, train_step
from trainables.loop.state import Run
from trainables.strategies.batch import FeatureNeeds, Kind, Needs
from trainables.value_models.records import read_rows


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


def test_the_lender_proves_the_reset_parts_and_the_verifier_its_gold_answers(world: World) -> None:
    calls: list[Any] = []
    lease = world.parts.lease()
    golden = SimpleNamespace(check_golden=lambda *given, **named: calls.append((given, named)))
    asked: list[Any] = []
    lease = replace(
        lease,
        verifier=cast(Any, lambda *given: asked.append(given) or golden),
        proof=lambda given: calls.append((given, len(world.parts.resets))),
    )
    world.config = settings(verifier={"max_failure_rate": 0.25})
    Run.start(lease, world.config, 3, world.folder)
    (proved, (given, named)) = calls
    assert proved == (lease, 2), "after learner and engines were reset"
    assert len(given[0]) == 20
    assert named == {"max_failure_rate": 0.25}
    ((judge, config),) = asked
    assert isinstance(judge, str)
    assert config == world.config.verifier


def test_what_prompts_scored_is_recorded_by_task_and_model_under_the_step(world: World) -> None:
    here = world.started()
    train_step(here)
    train_step(here)
    assert (here.recorder.dataset, here.recorder.model) == ("addition-0", Path(world.config.model).name)
    rows = read_rows(world.folder / "record.jsonl")
    assert [row.step for row in rows] == [0] * 4 + [1] * 4
    assert {row.count for row in rows} == {2}


def test_a_sampler_that_drifted_or_a_verifier_that_fails_ends_the_step_by_its_number(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.config = settings(loss={"max_mismatch_kl": 1e-4})
    here = world.started()
    here.counters.step = 7
    forward = world.parts.forward

    def moved(tokens: Any, plan: Any = None) -> Forward:
        found = forward(tokens, plan)
        return Forward(found.logprob_M + 1.0, found.entropy_M)

    monkeypatch.setattr(world.parts, "forward", moved)
    with pytest.raises(DivergedError, match=r"^step 7: KL between sampler and learner"):
        train_step(here)
    world.plan.kind = Kind.GREEDY
    with pytest.raises(WeightSyncError, match="weight sync 1"):
        train_step(here)  # greedy rollouts have log-probs of another temperature, so nothing drifted


@pytest.mark.parametrize(
    ("spent", "evaluated_at", "due", "at_the_end"),
    [
        (0, None, True, True),
        (15, 0, False, True),
        (16, 0, True, True),
        (31, 16, False, True),
        (32, 32, False, False),
    ],
)
def test_accuracy_is_measured_every_two_steps_of_rollouts_and_at_the_end(
    world: World, spent: int, evaluated_at: int | None, due: bool, at_the_end: bool
) -> None:
    here = world.started()
    here.counters.rollouts, here.counters.evaluated_at = spent, evaluated_at
    assert here.evaluation_due(last=False) == due
    assert here.evaluation_due(last=True) == at_the_end


@pytest.mark.parametrize(
    ("dtype", "given", "tolerance"),
    [("float32", None, 1e-3), ("bfloat16", None, 0.25), ("float32", 0.5, 0.5)],
)
def test_engine_and_learner_may_differ_by_what_their_precision_allows(
    world: World, dtype: str, given: float | None, tolerance: float
) -> None:
    world.config = settings(engine={"parity_tolerance": given})
    here = world.started()
    world.parts.dtype = dtype
    assert here.parity_tolerance == tolerance


@pytest.mark.parametrize(("spent", "left"), [(0, 8), (32, 8), (33, 7), (35, 5), (36, 0), (40, 0)])
def test_a_step_may_draw_what_is_left_unless_it_is_half_a_step(world: World, spent: int, left: int) -> None:
    here = world.started()
    here.counters.rollouts = spent
    assert here.step_rollouts() == left
    here.exhausted = True
    assert here.step_rollouts() == 0


def test_a_checkpoint_of_an_earlier_version_is_continued(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds no last responses."""
    world.config = settings(checkpoint_every=2)
    world.parts.stop_after = 3
    world.run()
    load = checkpoints.load_state
    monkeypatch.setattr(
        checkpoints,
        "load_state",
        lambda folder: {key: value for key, value in load(folder).items() if key != "responses"},
    )
    world.parts, world.plan = Parts(), Plan()
    assert world.run() == "finished"
    assert world.of("step", "rollouts") == [24, 32, 40]
