"""E engines as one: the engine actor, and the pool that deals requests to the actors."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import ray
import ray.exceptions

from trainables.config import Backend, Dtype, EngineConfig
from trainables.errors import EngineLost, TrimtabError
from trainables.rollouts.build import build_engine
from trainables.rollouts.engine import Completions, DrawRequest, Fingerprint
from trainables.weight_sync.transport import GRACE_S, ObjectStore, Transfer, Transport
from trainables.weight_sync.weights import Weights

if TYPE_CHECKING:
    from trainables.learner.group import LearnerGroup
    from trainables.weight_sync.publish import Manifest, Rendezvous


class EngineActor:
    """Process that holds one engine. Made a Ray actor by whoever owns its resources."""

    def __init__(
        self, model: str, config: EngineConfig, dtype: Dtype = "auto", backend: Backend | None = None
    ) -> None:
        self._engine = build_engine(model, config, dtype, backend)
        self._half_loaded = False
        self._group: Rendezvous | None = None

    @ray.method(max_task_retries=-1)  # type: ignore[untyped-decorator]  # untyped in Ray
    def ready(self) -> bool:
        """Answers once the engine is up, after a restart too: unlike the others this call waits for it."""
        if self._half_loaded:
            os._exit(1)  # only a new process is clean; Ray starts it and asks that one
        return True

    def draw(self, request: DrawRequest) -> Completions:
        return self._engine.draw(request)

    def reset(self) -> Rendezvous | None:
        """Returns the group for weight broadcasts that the engine is in: none after a restart."""
        self._engine.reset()
        return self._group

    def load(self, weights: Weights, version: int) -> None:
        self._engine.load(weights, version)

    def join(self, rendezvous: Rendezvous, first_rank: int) -> None:
        with _deadline(rendezvous.timeout_s + GRACE_S):
            self._engine.join(rendezvous, first_rank)
        self._group = rendezvous

    def receive(self, manifest: Manifest, version: int, timeout_s: float) -> None:
        self._half_loaded = True
        with _deadline(timeout_s + GRACE_S):
            self._engine.receive(manifest, version)
        self._half_loaded = False

    def fingerprint(self) -> Fingerprint:
        return self._engine.fingerprint()

    def rss_mb(self) -> float:
        """Resident memory of this process, MB."""
        return float(psutil.Process().memory_info().rss) / 1e6

    def close(self) -> None:
        self._engine.close()


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """End this process when the block has not ended in time: a wait inside NCCL cannot be broken off, and a
    learner that died cannot do it from outside. Ray starts the actor again."""
    timer = threading.Timer(seconds, os._exit, [1])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class EnginePool:
    """The engines of one lease, as the training loop sees them."""

    def __init__(self, actors: Sequence[Any], transport: Transport | None = None) -> None:
        self._actors = list(actors)
        self._transport: Transport = transport or ObjectStore()

    def wait(self) -> None:
        """Return when every engine is up. Raises RayActorError for one that is gone for good."""
        ray.get([actor.ready.remote() for actor in self._actors])

    def __len__(self) -> int:
        return len(self._actors)

    def draw(self, request: DrawRequest) -> Completions:
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
        return Completions.gather(self._get(pending), order)

    def draw_on_each(self, request: DrawRequest) -> list[Completions]:
        """The same request on every engine: what the parity probe compares."""
        completions: list[Completions] = self._get([actor.draw.remote(request) for actor in self._actors])
        return completions

    def reset(self) -> None:
        """Clear the caches of every engine; every lease begins with it."""
        self._transport.check(self._get([actor.reset.remote() for actor in self._actors]))

    def load(self, weights: Weights, version: int, timeout_s: float = 600.0) -> None:
        """Send weights to every engine and wait until all have them. Sent once, however many engines.

        An engine that hangs beyond `timeout_s` is killed (Ray starts it again): RayActorError, as if it had
        died by itself.
        """
        reference = ray.put(weights)
        self.finish(self.begin("load", [(reference, version)] * len(self)), timeout_s)

    def update(self, learner: LearnerGroup, version: int, timeout_s: float) -> Transfer:
        """Give every engine the learner's weights, by the slot's transport (see `Transport.send`)."""
        return self._transport.send(learner, self, version, timeout_s)

    def begin(self, method: str, args: Sequence[tuple[Any, ...]]) -> dict[Any, Any]:
        """Call a method of every engine, each with its own arguments; returns the actor of each task."""
        return {
            getattr(actor, method).remote(*its): actor for actor, its in zip(self._actors, args, strict=True)
        }

    def finish(self, pending: dict[Any, Any], timeout_s: float) -> None:
        """Wait for what `begin` began; kill the engines that are not done after `timeout_s`."""
        _, stuck = ray.wait(list(pending), num_returns=len(pending), timeout=max(0.0, timeout_s))
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
