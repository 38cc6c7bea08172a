"""How weights travel from the learner to the engines: one interface, two ways (`engine.weight_sync`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray.util

from trainables.config import Backend
from trainables.errors import EngineLost
from trainables.weight_sync.publish import BUCKET_BYTES, Manifest, Published, Rendezvous
from trainables.weight_sync.weights import Weights

GRACE_S = 10.0
"""Seconds beyond a deadline before an engine is killed: it may still say itself what it waited for."""


@dataclass(frozen=True)
class Transfer:
    """One weight sync."""

    nbytes: int
    gather_s: float
    """Seconds in which rank 0 collected parameters."""
    send_s: float
    """Seconds in which it sent them, and the engines loaded them."""


class Source(Protocol):
    """What a transport asks of the learner (`learner.group.LearnerGroup`)."""

    def weights(self) -> Weights: ...

    def manifest(self) -> Manifest: ...

    def listen(self, where: Rendezvous) -> Rendezvous: ...

    def publish(self, timeout_s: float) -> Published: ...

    def hang_up(self) -> None: ...


class Receivers(Protocol):
    """What a transport asks of the engines (`rollouts.pool.EnginePool`)."""

    def __len__(self) -> int: ...

    def load(self, weights: Weights, version: int, timeout_s: float) -> None: ...

    def begin(self, method: str, args: Sequence[tuple[Any, ...]]) -> dict[Any, Any]: ...

    def finish(self, pending: dict[Any, Any], timeout_s: float) -> None: ...


class Transport(Protocol):
    """Lives on the learner's rank 0."""

    def send(self, source: Source, engines: Receivers, version: int, timeout_s: float) -> Transfer:
        """Give every engine the learner's weights as `version`. Raises EngineLost or RayActorError when one
        does not get them within `timeout_s`."""
        ...

    def check(self, groups: Sequence[Rendezvous | None]) -> None:
        """Take note, as a lease begins, of the group that each engine is in."""
        ...


def build_transport(backend: Backend | None, tensor_parallel: int) -> Transport:
    """`backend`: what to broadcast over; None = through Ray's object store."""
    return Broadcast(backend, tensor_parallel) if backend else ObjectStore()


class ObjectStore:
    """The whole model through rank 0's host memory."""

    def send(self, source: Source, engines: Receivers, version: int, timeout_s: float) -> Transfer:
        began = time.perf_counter()
        weights = source.weights()
        gathered = time.perf_counter()
        engines.load(weights, version, timeout_s)
        return Transfer(weights.nbytes, gathered - began, time.perf_counter() - gathered)

    def check(self, groups: Sequence[Rendezvous | None]) -> None:
        pass


class Broadcast:
    """Bucket by bucket to all engine workers at once, through a group of rank 0 and them alone.

    The group lasts until a broadcast fails or a lease finds an engine outside it; the next one makes another.
    """

    def __init__(self, backend: Backend, tensor_parallel: int, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._backend: Backend = backend
        self._tensor_parallel = tensor_parallel
        self._bucket_bytes = bucket_bytes
        self._group: Rendezvous | None = None

    def send(self, source: Source, engines: Receivers, version: int, timeout_s: float) -> Transfer:
        limit = time.monotonic() + timeout_s
        try:
            if self._group is None:
                self._connect(source, engines, timeout_s)
            left = limit - time.monotonic()
            pending = engines.begin("receive", [(source.manifest(), version, left)] * len(engines))
            published = source.publish(left)
            sent = time.perf_counter()
            if published.error:
                # What an engine raised, or that it died, says more than that rank 0 could not reach it.
                source.hang_up()
                engines.finish(pending, GRACE_S)
                raise EngineLost(f"weight broadcast {version}: {published.error}")
            engines.finish(pending, limit - time.monotonic())
        except BaseException:
            self._group = None
            source.hang_up()
            raise
        waited = time.perf_counter() - sent
        return Transfer(published.nbytes, published.gather_s, published.send_s + waited)

    def check(self, groups: Sequence[Rendezvous | None]) -> None:
        if any(group != self._group for group in groups):
            self._group = None

    def _connect(self, source: Source, engines: Receivers, timeout_s: float) -> None:
        world_size = 1 + len(engines) * self._tensor_parallel
        host = ray.util.get_node_ip_address()
        rendezvous = source.listen(Rendezvous(self._backend, host, world_size, timeout_s, self._bucket_bytes))
        first_ranks = range(1, world_size, self._tensor_parallel)
        engines.finish(engines.begin("join", [(rendezvous, rank) for rank in first_ranks]), timeout_s)
        self._group = rendezvous
