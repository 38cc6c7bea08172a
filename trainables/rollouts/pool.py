"""E engines as one: the engine actor, and the pool that deals requests to the actors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from trainables.config import EngineConfig
from trainables.learner.weights import Weights
from trainables.rollouts.engine import Drawn, DrawRequest, build_engine


class EngineActor:
    """Process that holds one engine. Made a Ray actor by whoever owns its resources."""

    def __init__(self, model: str, config: EngineConfig) -> None:
        self._engine = build_engine(model, config)

    @ray.method(max_task_retries=-1)  # type: ignore[untyped-decorator]  # untyped in Ray
    def ready(self) -> bool:
        """Answers once the engine is up, after a restart too: unlike the others this call waits for it."""
        return True

    def draw(self, request: DrawRequest) -> Drawn:
        return self._engine.draw(request)

    def reset(self) -> None:
        self._engine.reset()

    def load(self, weights: Weights, version: int) -> None:
        self._engine.load(weights, version)

    def close(self) -> None:
        self._engine.close()


class EnginePool:
    """The engines of one lease, as the training loop sees them."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = list(actors)

    def wait(self) -> None:
        """Return when every engine is up. Raises RayActorError for one that is gone for good."""
        ray.get([actor.ready.remote() for actor in self._actors])

    def __len__(self) -> int:
        return len(self._actors)

    def draw(self, request: DrawRequest) -> Drawn:
        """Sample all rollouts, dealt over the engines in turn. Raises RayActorError when one has died."""
        order = np.concatenate(
            [np.arange(e, request.rollouts, len(self), dtype=np.int64) for e in range(len(self))]
        )
        shares = [np.arange(e, request.rollouts, len(self), dtype=np.int64) for e in range(len(self))]
        pending = [
            actor.draw.remote(request.take(rows))
            for actor, rows in zip(self._actors, shares, strict=True)
            if len(rows)
        ]
        return Drawn.gather(ray.get(pending), order)

    def draw_on_each(self, request: DrawRequest) -> list[Drawn]:
        """The same request on every engine: what the parity probe compares."""
        drawn: list[Drawn] = ray.get([actor.draw.remote(request) for actor in self._actors])
        return drawn

    def reset(self) -> None:
        """Clear the caches of every engine; every lease begins with it."""
        ray.get([actor.reset.remote() for actor in self._actors])

    def load(self, weights: Weights, version: int) -> None:
        """Send weights to every engine and wait until all have them. Sent once, however many engines."""
        reference = ray.put(weights)
        ray.get([actor.load.remote(reference, version) for actor in self._actors])
