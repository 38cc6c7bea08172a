"""Several learner workers and engines; models that tie their embeddings. Each needs processes of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from slot_bench import Bench, start_bench
from speed import patience

from trainables.config import EngineConfig, LearnerConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def losses(events: list[dict[str, Any]]) -> list[float]:
    assert events[-1]["outcome"] == "finished", events[-1]["error"]
    return [e["metrics"]["loss"] for e in events if e["event"] == "step"]


def test_tied_embeddings_are_refused_by_the_parity_probe_and_not_silently_wrong(bench, tmp_path, tiny_model):
    """vLLM on CPUs cannot reload them (`sync_weights` raises); the transformers engine trains them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tiny_model)
    config.tie_word_embeddings = True
    tied = tmp_path / "tied"
    AutoModelForCausalLM.from_config(config).save_pretrained(tied)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tied)

    for kind in ("vllm", "transformers"):
        engine = EngineConfig(kind=kind, max_model_len=64)
        world = start_bench(tmp_path / kind, str(tied), LearnerConfig(lr=1e-3), engine)
        try:
            events = world.run(world.config(steps=3), [0])
        finally:
            world.slots.close(patience(60))
        steps = [e for e in events if e["event"] == "step"]
        if events[-1]["outcome"] == "failed":
            assert kind == "vllm"
            assert "WeightSyncError" in events[-1]["error"]
            assert "tie" in events[-1]["error"]
        else:
            assert all(e["metrics"]["parity"] < 1e-3 for e in steps)
            assert len(steps) == 3


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A slot of W learner workers and E engines, and how its weights travel: one at a time."""
    workers, engines, sync = request.param
    made = start_bench(
        tmp_path_factory.mktemp("world"),
        bench.model,
        LearnerConfig(lr=1e-4, workers=workers, zero_stage=2),
        EngineConfig(max_model_len=320, count=engines, weight_sync=sync),
    )
    yield made
    made.slots.close(patience(60))


MORE_ENGINES, MORE_WORKERS, BOTH = (1, 2, "object_store"), (2, 1, "object_store"), (2, 2, "object_store")
BROADCASTING = (2, 2, "broadcast")


@pytest.mark.parametrize("world", [MORE_ENGINES, MORE_WORKERS, BOTH], indirect=True)
def test_worlds_train_as_one_worker_and_one_engine_do(bench, world):
    """The same rollouts (seeds are per rollout) and the same updates, to rounding, however many processes."""
    expected = losses(bench.run(bench.config(steps=3), [0]))
    found = losses(world.run(world.config(steps=3), [0]))
    diverging = {**world.learner.model_dump(), "lr": 1e30}
    diverged = world.run(world.config(steps=2, learner=diverging), [0])
    again = losses(world.run(world.config(steps=3), [0]))
    assert found == pytest.approx(expected, abs=2e-3)
    assert diverged[-1]["outcome"] == "failed"
    assert again == found, "ranks are in step again after a failed trial"


def zero_3(world: Bench) -> LearnerConfig:
    return world.learner.model_copy(update={"zero_stage": 3})


@pytest.mark.parametrize("world", [BROADCASTING], indirect=True)
def test_zero_3_on_two_workers_broadcasts_to_two_engines_and_saves_a_whole_model(bench, world):
    from transformers import AutoModelForCausalLM

    expected = losses(bench.run(bench.config(steps=2), [0]))
    events = world.run(world.config(steps=2, learner=zero_3(world)), [0])
    assert losses(events) == pytest.approx(expected, abs=2e-3)
    steps = [event["metrics"] for event in events if event["event"] == "step"]
    assert all(step["parity"] < 1e-3 for step in steps)
    assert all(step["sync_mb"] > 2 and step["sync_send_s"] > 0 for step in steps)
    (checkpoint,) = [e["checkpoint"] for e in events if e["event"] == "run_finished"]
    model = AutoModelForCausalLM.from_pretrained(Path(checkpoint) / "model")
    assert sum(p.numel() for p in model.parameters()) > 500_000
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("world", [MORE_WORKERS], indirect=True)
def test_probe_and_critic_see_the_same_on_two_workers_with_zero_3(bench, world):
    """States and values are gathered from the ranks that own the rollouts, in order."""
    read = {
        "strategy/prior_mae": {"preset": "poise", "group_size": 4, "warmup_updates": 1, "survey": True},
        "critic_loss": {"preset": "ppo", "critic_lr": 1e-3},
    }

    def metrics(where, name: str, strategy: dict[str, Any], learner: LearnerConfig) -> list[float]:
        events = where.run(where.config(steps=3, strategy=strategy, learner=learner), [0])
        assert events[-1]["outcome"] == "finished", events[-1]["error"]
        return [e["metrics"][name] for e in events if e["event"] == "step" and name in e["metrics"]]

    for name, strategy in read.items():
        found = metrics(world, name, strategy, zero_3(world))
        assert len(found) >= 2
        assert found == pytest.approx(metrics(bench, name, strategy, bench.learner), rel=0.02), name
