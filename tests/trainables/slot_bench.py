"""A slot with its broker, driven as a trial drives it. Not a test: what tests and fixtures share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainables.config import EngineConfig, LearnerConfig
from trainables.trial import TrialConfig

Events = list[dict[str, Any]]


@dataclass
class Bench:
    """A slot with its broker, driven as a trial drives it."""

    broker: Any
    slots: Any
    model: str
    folder: Path
    learner: LearnerConfig
    engine: EngineConfig
    names: dict[int, str] = field(default_factory=dict)
    """Name of each submitted trial, by token: its journal's name."""
    _names: Iterator[int] = field(default_factory=lambda: iter(range(10**6)))

    def config(self, **changes: Any) -> TrialConfig:
        """A small trial: 4 steps of 32 rollouts, 32 validation prompts."""
        settings: dict[str, Any] = {
            "model": self.model,
            "strategy": {"preset": "grpo", "group_size": 4},
            "steps": 4,
            "rollouts_per_step": 32,
            "task": {"train_prompts": 64, "validation_prompts": 32, "test_prompts": 32},
            "learner": self.learner,
            "engine": self.engine,
            "evaluation": {"every": 2, "samples": 1},
        }
        return TrialConfig.model_validate(settings | changes)

    def submit(
        self, config: TrialConfig, seeds: list[int], output: Path | None = None, *, shared: bool = False
    ) -> int:
        import ray

        name = f"trial-{next(self._names)}"
        payload = {
            "config": config.model_dump(mode="json"),
            "seeds": seeds,
            "output": str(output or self.folder / name),
            "shared": shared,
        }
        token: int = ray.get(self.broker.submit.remote(name, payload))
        self.names[token] = name
        return token

    def follow(self, token: int) -> Iterator[dict[str, Any]]:
        """Events as they come; the last is `{"event": "outcome", ...}`."""
        import ray

        cursor, end = 0, None
        while end is None:
            events, end = ray.get(self.broker.poll.remote(token, cursor))
            cursor += len(events)
            yield from events
        yield {"event": "outcome", "outcome": end.outcome, "error": end.error, "cause": end.cause}

    def run(self, config: TrialConfig, seeds: list[int], output: Path | None = None) -> list[dict[str, Any]]:
        return list(self.follow(self.submit(config, seeds, output)))


def start_bench(
    tmp: Path, model: str, learner: LearnerConfig, engine: EngineConfig, leases: int = 1000, count: int = 1
) -> Bench:
    import ray

    from trimtab.slots.broker import Broker
    from trimtab.slots.host import Slots, SlotSpec

    broker = ray.remote(Broker).options(num_cpus=0, max_concurrency=1000).remote(str(tmp))
    spec = SlotSpec(
        model, learner, engine, learner_cpus=0.2, engine_cpus=0.2, storage=str(tmp / "train"), leases=leases
    )
    slots = Slots(spec, count, broker)
    slots.start()
    return Bench(broker, slots, model, tmp, learner, engine)


def steps(events: Events, seed: int = 0) -> Events:
    return [e for e in events if e["event"] == "step" and e["seed"] == seed]


def curve(events: Events, seed: int = 0) -> list[tuple[int, float]]:
    return [
        (e["rollouts"], e["metrics"]["accuracy"])
        for e in events
        if e["event"] == "evaluation" and e["seed"] == seed
    ]


def timeless(events: Events) -> Events:
    """Everything of the steps but how long they took."""
    return [
        {
            **{k: v for k, v in e.items() if k not in ("seconds", "time")},
            "metrics": {
                k: v for k, v in e["metrics"].items() if not k.startswith("seconds/") and not k.endswith("_s")
            },
        }
        for e in events
        if e["event"] in ("step", "evaluation")
    ]
