"""How a run spends its budget, step by step: the loop on a learner and an engine that only count."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from trainables.errors import StrategyError
from trainables.learner.results import Forward, UpdateStats
from trainables.loop.lease import Lease
from trainables.loop.rlvr import run_trial, train_step
from trainables.loop.state import Run
from trainables.rollouts.engine import Completions, DrawRequest
from trainables.strategies.batch import (
    Batch,
    CriticNeeds,
    Decision,
    Kind,
    Needs,
    Pool,
    Requests,
    RolloutBudget,
    Scores,
    Stats,
)
from trainables.trial import TrialConfig
from trainables.value_models.config import EncoderConfig
from trainables.verifier.verifier import Judgement, Verdict

TOKENS = 3
"""Tokens of every response; a prompt has two."""


@dataclass
class Plan:
    """A strategy that asks for what a test plans, and keeps what it was told."""

    first: int = 4
    """Prompts of a step's first round, of two rollouts each; -1: as many as the budget holds."""
    decisions: list[Decision] = field(default_factory=list)
    budgets: list[RolloutBudget] = field(default_factory=list)
    wanted: list[int | None] = field(default_factory=list)
    pools: list[list[int]] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    stats: list[Stats] = field(default_factory=list)
    kind: Kind = Kind.SAMPLE
    asks: Needs = field(default_factory=Needs)
    vectors: Any = None

    def provide(self, vectors: Any) -> None:
        self.vectors = vectors

    def needs(self) -> Needs:
        return self.asks

    def select(self, pool: Pool, rollout_budget: RolloutBudget, wanted: int | None = None) -> Requests:
        self.budgets.append(rollout_budget)
        self.wanted.append(wanted)
        self.pools.append(pool.prompt_C.tolist())
        prompts = wanted or (rollout_budget.rollouts // 2 if self.first < 0 else self.first)
        requests = Requests.samples(pool.prompt_C[:prompts], 2)
        return replace(requests, kind_R=np.full(len(requests.prompt_R), int(self.kind)))

    def decide(self, batch: Batch, rollout_budget: RolloutBudget) -> Decision:
        self.budgets.append(rollout_budget)
        return self.decisions.pop(0) if self.decisions else Decision()

    def score(self, batch: Batch) -> Scores:
        return Scores(
            batch.reward_N, np.ones(len(batch.reward_N)), diagnostics={"seen": float(batch.prompts)}
        )

    def observe(self, batch: Batch, stats: Stats) -> None:
        self.batches.append(batch)
        self.stats.append(stats)

    def state_dict(self) -> dict[str, Any]:
        return {"observed": len(self.batches)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches = [cast(Batch, None)] * state["observed"]


@dataclass
class Parts:
    """Learner, engines, verifier and tokenizer of a lease. They draw fixed tokens and count."""

    updates: int = 0
    draws: list[DrawRequest] = field(default_factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    resets: list[tuple[Any, ...]] = field(default_factory=list)
    stop_after: int | None = None
    """The sweep asks for a stop at the report of this step."""
    shift: float = 0.0
    """How far each update moves a token's log-prob, nats."""
    dtype = "float32"
    layers = 2

    def lease(self) -> Lease:
        here = cast(Any, self)
        verifier = SimpleNamespace(check_golden=lambda *_, **__: None, verify=self.verify)
        return Lease("tiny", here, here, here, cast(Any, lambda judge, config: verifier), self.report)

    def report(self, event: str, **fields: Any) -> bool:
        self.events.append((event, fields))
        return not (event == "step" and fields["step"] == self.stop_after)

    def reset(self, *given: Any) -> None:
        """Reset the learner (with settings) or the engines (with none)."""
        self.resets.append(given)

    def gradient_products(self, one: Any, two: Any, loss: Any) -> tuple[float, float, float]:
        if loss is None:
            raise TypeError("no loss settings")
        return 3.0, 5.0, 2.0

    def __call__(self, texts: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [[n, n] for n in range(len(texts))]}

    def batch_decode(self, responses: list[Any], **_: Any) -> list[str]:
        return ["" for _ in responses]

    def verify(self, pairs: list[tuple[str, str]]) -> list[Judgement]:
        return [Judgement(Verdict.OK, float(n % 2)) for n in range(len(pairs))]

    def draw(self, request: DrawRequest) -> Completions:
        self.draws.append(request)
        rows, tokens = request.rollouts, TOKENS * request.rollouts
        return Completions(
            length_R=np.full(rows, TOKENS, np.int32),
            token_M=np.zeros(tokens, np.int32),
            logprob_M=np.full(tokens, self.shift * self.updates, np.float32),
            finished_R=np.ones(rows, np.bool_),
            version=self.updates,
        )

    def draw_on_each(self, request: DrawRequest) -> list[Completions]:
        completions = self.draw(request)
        self.draws.pop()
        return [completions]

    def forward(self, tokens: Any, plan: Any = None) -> Forward:
        logprob_M = np.full(tokens.response_tokens, self.shift * self.updates, np.float32)
        return Forward(logprob_M, np.full(tokens.response_tokens, 0.5, np.float32))

    def values(self, tokens: Any) -> np.ndarray:
        """Value a rollout's tokens from its prompt on (the prompt's tokens are its id), in quarters."""
        start_N = np.cumsum(tokens.prompt_length_N + tokens.response_length_N)
        prompt_N = tokens.token_S[start_N - tokens.prompt_length_N - tokens.response_length_N]
        return (prompt_N[:, None] + 0.25 * np.arange(TOKENS)).astype(np.float32).ravel()

    def update(self, *given: Any) -> Any:
        """Update the policy (batch, loss), or take the weights of a learner (learner, version, timeout)."""
        if isinstance(given[0], Parts):
            return SimpleNamespace(nbytes=0, gather_s=0.0, send_s=0.0)
        if given[1] is None:
            raise TypeError("no loss settings")
        self.updates += 1
        return UpdateStats(1.0, 0.0, 0.0, 0.0, given[0].tokens.response_tokens)

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...

    def save_pretrained(self, folder: Path) -> None: ...


@dataclass
class World:
    """A run on counting parts: four prompts of two rollouts fill a step of eight; 20 prompts."""

    parts: Parts
    plan: Plan
    folder: Path
    config: TrialConfig

    def run(self) -> str:
        return run_trial(self.parts.lease(), self.config, 3, self.folder)

    def started(self) -> Run:
        return Run.start(self.parts.lease(), self.config, 3, self.folder)

    def of(self, event: str, key: str) -> list[Any]:
        return [fields[key] for name, fields in self.parts.events if name == event]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    here = World(Parts(), Plan(), tmp_path, settings())
    monkeypatch.setattr(type(here.config.strategy), "build", lambda _, penalty: here.plan)
    return here


def settings(**given: Any) -> TrialConfig:
    usual = {
        "strategy": {"preset": "rloo", "group_size": 2},
        "task": {"train_prompts": 20, "validation_prompts": 2},
        "steps": 5,
        "rollouts_per_step": 8,
        "evaluation": {"every": 2, "samples": 1},
        "learner": {"mini_batches": 1},
    }
    return TrialConfig.model_validate({**usual, **given})


def test_a_run_spends_its_budget_and_evaluates_by_the_rollouts_spent(world: World) -> None:
    assert world.run() == "finished"
    assert world.of("step", "rollouts") == [8, 16, 24, 32, 40]
    assert world.of("step", "step") == [1, 2, 3, 4, 5]
    assert world.of("step", "tokens") == [8 * TOKENS * n for n in range(1, 6)]
    assert world.of("step", "learner_tokens") == [8 * (TOKENS + 2) * n for n in range(1, 6)]
    assert world.of("evaluation", "rollouts") == [0, 16, 32, 40]
    assert world.of("stage", "stage")[:4] == ["resetting", "training", "evaluating", "training"]
    assert world.of("stage", "stage")[-3:] == ["evaluating", "training", "saving"]
    assert [stats.step for stats in world.plan.stats] == [0, 1, 2, 3, 4]
    assert world.parts.updates == 5


@pytest.mark.parametrize(
    ("prompts", "steps"), [(3, [6, 12, 18, 24, 30, 36]), (2, [4 * n for n in range(1, 10)])]
)
def test_what_a_strategy_leaves_of_its_steps_buys_further_ones(
    world: World, prompts: int, steps: list[int]
) -> None:
    """Until half a step or less is left: 4 of 8."""
    world.plan.first = prompts
    assert world.run() == "finished"
    assert world.of("step", "rollouts") == steps


def test_the_last_step_is_cut_to_what_is_left(world: World) -> None:
    """Of 40 rollouts 35 are spent; the strategy asks for 8 more."""
    here = world.started()
    here.counters.rollouts = 35
    train_step(here)
    assert here.counters.rollouts == 40
    assert world.plan.budgets[0].total == 5


def test_a_stop_that_the_sweep_asks_for_ends_the_run_at_that_step(world: World) -> None:
    world.parts.stop_after = 2
    assert world.run() == "stopped"
    assert world.of("step", "step") == [1, 2]
    assert not list(world.folder.glob("checkpoint-*"))


def test_a_run_goes_on_from_its_checkpoint(world: World) -> None:
    world.config = settings(checkpoint_every=2)
    world.parts.stop_after = 3
    assert world.run() == "stopped"
    assert [path.name for path in world.folder.glob("checkpoint-*")] == ["checkpoint-2"]
    world.parts, world.plan = Parts(), Plan()
    assert world.run() == "finished"
    assert world.of("step", "rollouts") == [24, 32, 40]
    assert len(world.plan.batches) == 5


def test_every_prompt_is_used_once_before_any_is_used_twice(world: World) -> None:
    """20 prompts fill five steps of four."""
    world.run()
    assert sorted(p for batch in world.plan.batches for p in batch.prompt_id_P) == list(range(20))


def test_a_strategy_that_asks_for_nothing_out_of_a_full_step_is_refused(world: World) -> None:
    world.plan.first = 0
    with pytest.raises(StrategyError, match=r"step 0.*no rollouts out of 8.*raise rollouts_per_step"):
        world.run()


def test_a_last_step_too_small_for_the_strategy_ends_the_run(world: World) -> None:
    here = world.started()
    here.counters.rollouts = 35
    world.plan.first = 0
    assert train_step(here)
    assert here.step_rollouts() == 0
    assert here.counters.step == 0


def test_rollouts_of_the_reference_policy_are_refused(world: World) -> None:
    world.plan.kind = Kind.REFERENCE
    with pytest.raises(StrategyError, match=r"reference policy.*use sample or greedy rollouts"):
        world.run()


@pytest.mark.parametrize(("kind", "temperature"), [(Kind.SAMPLE, 0.7), (Kind.GREEDY, 0.0)])
def test_greedy_rollouts_are_drawn_at_temperature_zero(world: World, kind: Kind, temperature: float) -> None:
    world.config = settings(sampling={"temperature": 0.7, "max_tokens": 9})
    world.plan.kind = kind
    train_step(world.started())
    (draw,) = world.parts.draws
    assert draw.temperature_R.tolist() == [temperature] * 8
    assert draw.max_tokens_R.tolist() == [9] * 8
    assert len(set(draw.seed_R.tolist())) == 8
    batch = world.plan.batches[0]
    assert [row[0] for row in draw.prompts] == batch.prompt_id_P[batch.prompt_N].tolist()


def test_a_second_round_draws_from_what_the_first_left(world: World) -> None:
    """Two prompts take 4 of 8; one more rollout of the first and fresh prompts for the 3 that are left."""
    world.plan.first = 2
    here = world.started()
    first = here.order.pool(0, np.zeros(0, np.int64)).prompt_C[:2]
    world.plan.decisions = [Decision(more=Requests.samples(first[:1], 1), new_prompts=5)]
    train_step(here)
    assert [draw.rollouts for draw in world.parts.draws] == [4, 4]
    rounds = here.config.strategy.rounds()
    assert [(b.rollouts, b.rounds, b.step, b.total) for b in world.plan.budgets] == [
        (8, rounds, 0, 8),
        (4, rounds - 1, 0, 8),
        (3, rounds - 1, 0, 8),
        (0, rounds - 2, 0, 8),
    ]
    assert world.plan.wanted == [None, 5]
    assert not set(first.tolist()) & set(world.plan.pools[1])
    batch = world.plan.batches[0]
    assert np.bincount(batch.prompt_N).tolist() == [3, 2, 2, 1]
    assert here.counters.rollouts == 8


def test_a_strategy_that_never_has_enough_is_held_to_the_rounds(world: World) -> None:
    world.config = settings(rollouts_per_step=400)
    world.plan.first = 1
    here = world.started()
    first = here.order.pool(0, np.zeros(0, np.int64)).prompt_C[:1]
    world.plan.decisions = [Decision(more=Requests.samples(first, 1)) for _ in range(100)]
    train_step(here)
    assert [draw.rollouts for draw in world.parts.draws] == [2] + [1] * (here.config.strategy.rounds() - 1)


def test_a_strategy_that_asks_for_more_than_the_step_holds_gets_what_is_left(world: World) -> None:
    world.plan.first = 2
    here = world.started()
    first = here.order.pool(0, np.zeros(0, np.int64)).prompt_C[:1]
    world.plan.decisions = [Decision(more=Requests.samples(first, 999), new_prompts=3)]
    train_step(here)
    assert [draw.rollouts for draw in world.parts.draws] == [4, 4]
    assert np.bincount(world.plan.batches[0].prompt_N).tolist() == [6, 2]
    assert here.counters.rollouts == 8


def test_dropped_prompts_are_paid_for(world: World) -> None:
    drop_P = np.array([True, False, False, False])
    world.plan.decisions = [Decision(drop_P=drop_P)]
    here = world.started()
    train_step(here)
    assert world.plan.batches[0].dropped_P.tolist() == drop_P.tolist()
    assert here.counters.rollouts == 8


@pytest.mark.parametrize("needed", [True, False])
def test_the_change_of_log_probs_is_told_to_a_strategy_that_needs_it(world: World, needed: bool) -> None:
    """Of each prompt since its last visit: 20 prompts, 4 a step, so the sixth step is the first again."""
    world.plan.asks = Needs(logprob_change=needed)
    world.parts.shift = -0.25
    here = world.started()
    for _ in range(5):
        train_step(here)
    found = [stats.logprob_change_P for stats in world.plan.stats]
    assert all((change_P is not None) == needed for change_P in found)
    if needed:
        assert [change_P.tolist() for change_P in found if change_P is not None] == [[0.0] * 4] * 5


def test_a_step_reports_what_it_did(world: World) -> None:
    train_step(world.started())
    (metrics,) = world.of("step", "metrics")
    assert metrics["rollouts"] == 8
    assert metrics["strategy/seen"] == 4
    assert metrics["updates"] == 1
    assert metrics["trained_tokens"] == 8 * TOKENS
    assert metrics["mismatch_kl"] == 0
    assert metrics["truncated"] == 0
    assert metrics["reward"] == pytest.approx(metrics["train_accuracy"])
    assert metrics["entropy"] == 0.5
    parts = {name for name in metrics if name.startswith("seconds/")}
    named = ("select", "generate", "verify", "decide", "logprobs", "score", "update", "sync", "observe")
    assert {f"seconds/{name}" for name in named} <= parts
    assert metrics["seconds/step"] == pytest.approx(sum(metrics[name] for name in parts - {"seconds/step"}))


@pytest.mark.parametrize("at_decide", [False, True])
def test_each_rollout_gets_the_critic_s_values_of_its_own_tokens(world: World, at_decide: bool) -> None:
    world.plan.asks = Needs(values=CriticNeeds(), at_decide=at_decide)
    world.plan.first = 2
    here = world.started()
    first = here.order.pool(0, np.zeros(0, np.int64)).prompt_C[:1]
    world.plan.decisions = [Decision(more=Requests.samples(first, 3))]
    train_step(here)
    batch = world.plan.batches[0]
    assert batch.values is not None
    assert [value.tolist() for value in batch.values] == [
        [float(batch.prompt_id_P[p]) + 0.25 * t for t in range(TOKENS)] for p in batch.prompt_N
    ]


def test_the_journal_learns_which_data_a_run_reads(world: World) -> None:
    world.run()
    ((data),) = world.of("data", "data")
    assert {split: entry["problems"] for split, entry in data.items()} == {"train": 20, "validation": 2}


def test_what_is_lent_is_reset_to_the_run_s_own_settings(world: World) -> None:
    """Another run's temperature, seed or critic would stay in a warm slot."""
    critic = CriticNeeds(lr=1e-3)
    world.plan.asks = Needs(values=critic)
    world.config = settings(sampling={"temperature": 0.7})
    world.started()
    assert world.parts.resets == [("tiny", world.config.learner, 0.7, 3, critic, None), ()]


def test_a_strategy_that_reads_prompts_is_given_those_it_trains_on(world: World) -> None:
    encoder = EncoderConfig(model="none", ngrams=16)
    world.plan.asks = Needs(encoder=encoder)
    here = world.started()
    assert world.plan.vectors.config == encoder
    assert world.plan.vectors.texts == here.problems.prompts("train")
    assert world.plan.vectors.texts != here.problems.prompts("validation")


def test_a_strategy_is_not_asked_for_prompts_that_nothing_is_left_for(world: World) -> None:
    world.plan.first = 2
    here = world.started()
    first = here.order.pool(0, np.zeros(0, np.int64)).prompt_C[:1]
    world.plan.decisions = [Decision(more=Requests.samples(first, 4), new_prompts=1)]
    train_step(here)
    assert world.plan.wanted == [None]


def test_gradient_noise_is_in_the_step_s_metrics_where_it_is_measured(world: World) -> None:
    world.config = settings(learner={"gradient_noise_every": 2})
    here = world.started()
    train_step(here)
    train_step(here)
    measured, other = world.of("step", "metrics")
    assert measured["gradient_noise"] == 0.5
    assert "gradient_noise" not in other
