"""E engines as one: the engine actor, and the pool that deals requests to the actors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil
import ray
import ray.exceptions

from trainables.config import Dtype, EngineConfig
from trainables.learner.weights import Weights
from trainables.rollouts.engine import Drawn, DrawRequest, Fingerprint, build_engine
from trimtab.errors import EngineLost, TrimtabError


class EngineActor:
    """Process that holds one engine. Made a Ray actor by whoever owns its resources."""

    def __init__(self, model: str, config: EngineConfig, dtype: Dtype = "auto") -> None:
        self._engine = build_engine(model, config, dtype)

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

    def fingerprint(self) -> Fingerprint:
        return self._engine.fingerprint()

    def rss_mb(self) -> float:
        """Resident memory of this process, MB."""
        return float(psutil.Process().memory_info().rss) / 1e6

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
        return Drawn.gather(self._get(pending), order)

    def draw_on_each(self, request: DrawRequest) -> list[Drawn]:
        """The same request on every engine: what the parity probe compares."""
        drawn: list[Drawn] = self._get([actor.draw.remote(request) for actor in self._actors])
        return drawn

    def reset(self) -> None:
        """Clear the caches of every engine; every lease begins with it."""
        self._get([actor.reset.remote() for actor in self._actors])

    def load(self, weights: Weights, version: int, timeout_s: float = 600.0) -> None:
        """Send weights to every engine and wait until all have them. Sent once, however many engines.

        An engine that hangs beyond `timeout_s` is killed (Ray starts it again): RayActorError, as if it had
        died by itself.
        """
        reference = ray.put(weights)
        pending = {actor.load.remote(reference, version): actor for actor in self._actors}
        _, stuck = ray.wait(list(pending), num_returns=len(pending), timeout=timeout_s)
        for task in stuck:
            ray.kill(pending[task], no_restart=False)
        self._get(list(pending))

    def fingerprints(self) -> list[Fingerprint]:
        """What each engine holds."""
        found: list[Fingerprint] = self._get([actor.fingerprint.remote() for actor in self._actors])
        return found

    def rss_mb(self) -> float:
        """Resident memory of all engines, MB."""
        return float(sum(self._get([actor.rss_mb.remote() for actor in self._actors])))

    def _get(self, pending: Sequence[Any]) -> list[Any]:
        """Answers of the engines. Raises EngineLost when one raised anything but a TrimtabError.

        Such an engine may hold half a batch or a broken device: all are killed, and Ray restarts them.
        """
        try:
            answers: list[Any] = ray.get(list(pending))
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, TrimtabError):
                raise
            for actor in self._actors:
                ray.kill(actor, no_restart=False)
            raise EngineLost(f"a rollout engine failed: {type(cause).__name__}: {cause}") from error
        return answers
