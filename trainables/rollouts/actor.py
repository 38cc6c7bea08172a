"""The process that holds one rollout engine: a Ray actor, made by whoever owns its resources."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import ray

from trainables.config import Backend, Dtype, EngineConfig
from trainables.rollouts.build import build_engine
from trainables.rollouts.engine import Completions, DrawRequest, Fingerprint
from trainables.weight_sync.transport import GRACE_S
from trainables.weight_sync.weights import Weights

if TYPE_CHECKING:
    from trainables.weight_sync.publish import Manifest, Rendezvous


class EngineActor:
    """Serves one engine (`trainables.rollouts.engine.Engine`) to the learner's rank 0."""

    def __init__(
        self, model: str, config: EngineConfig, dtype: Dtype = "auto", backend: Backend | None = None
    ) -> None:
        self._engine = build_engine(model, config, dtype, backend)
        self._half_loaded = False
        self._group: Rendezvous | None = None

    @ray.method(max_task_retries=-1)  # type: ignore[untyped-decorator]  # untyped in Ray
    def ready(self) -> bool:
        """Answer once the engine is up. Unlike the others, this call also waits for a restarted engine."""
        if self._half_loaded:
            os._exit(1)  # only a new process is clean; Ray starts it and asks that one
        return True

    def draw(self, request: DrawRequest) -> Completions:
        """Sample every rollout of the request."""
        return self._engine.draw(request)

    def reset(self) -> Rendezvous | None:
        """Clear the caches. Return the broadcast group that the engine is in: None after a restart."""
        self._engine.reset()
        return self._group

    def load(self, weights: Weights, version: int) -> None:
        """Take new weights."""
        self._engine.load(weights, version)

    def join(self, rendezvous: Rendezvous, first_rank: int) -> None:
        """Join the learner's broadcast group, or end this process if that takes too long."""
        with _deadline(rendezvous.timeout_s + GRACE_S):
            self._engine.join(rendezvous, first_rank)
        self._group = rendezvous

    def receive(self, manifest: Manifest, version: int, timeout_s: float) -> None:
        """Take the weights that the learner broadcasts, or end this process if they do not come in time."""
        self._half_loaded = True
        with _deadline(timeout_s + GRACE_S):
            self._engine.receive(manifest, version)
        self._half_loaded = False

    def fingerprint(self) -> Fingerprint:
        """Return what the engine holds."""
        return self._engine.fingerprint()

    def rss_mb(self) -> float:
        """Return the resident memory of this process, MB."""
        return float(psutil.Process().memory_info().rss) / 1e6

    def close(self) -> None:
        """Give the engine's memory back."""
        self._engine.close()


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """End this process unless the block ends in time.

    A wait inside NCCL cannot be interrupted, and a learner that has died cannot kill this process. Ray
    restarts the actor.
    """
    timer = threading.Timer(seconds, os._exit, [1])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
