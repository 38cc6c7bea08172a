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
"""Seconds beyond a deadline before an engine is killed, so that it can report what it was waiting for."""


@dataclass(frozen=True)
class Transfer:
    """What one weight sync took."""

    nbytes: int
    gather_s: float
    """Seconds that rank 0 spent gathering parameters."""
    send_s: float
    """Seconds that it spent sending them and waiting until the engines had loaded them."""


class Source(Protocol):
    """The side that weights come from: what a transport asks of a `LearnerGroup`, on its rank 0."""

    def weights(self) -> Weights:
        """Gather all parameters in this process."""
        ...

    def manifest(self) -> Manifest:
        """Return name, dtype and shape of what `publish` sends."""
        ...

    def listen(self, where: Rendezvous) -> Rendezvous:
        """Open a new broadcast group in place of any old one. Return `where` with the port to join at."""
        ...

    def publish(self, timeout_s: float) -> Published:
        """Broadcast all parameters within `timeout_s` seconds. A failure is returned, not raised."""
        ...

    def hang_up(self) -> None:
        """Leave the broadcast group, if any; engine workers that wait in it get an error."""
        ...


class Receivers(Protocol):
    """The side that weights go to: what a transport asks of an `EngineGroup`.

    `load` and `finish` raise EngineLost or RayActorError for an engine that failed, or that is not done
    after `timeout_s` seconds.
    """

    def __len__(self) -> int:
        """Return the number of engines."""
        ...

    def load(self, weights: Weights, version: int, timeout_s: float) -> None:
        """Give every engine the weights, and wait until all have loaded them."""
        ...

    def begin(self, method: str, args: Sequence[tuple[Any, ...]]) -> dict[Any, Any]:
        """Call a method of each engine's actor, with arguments of its own. Return the actor of each task."""
        ...

    def finish(self, pending: dict[Any, Any], timeout_s: float) -> None:
        """Wait for the tasks of `begin`."""
        ...


class Transport(Protocol):
    """A way for weights to reach the engines. Lives on the learner's rank 0, for as long as the slot."""

    def send(self, source: Source, engines: Receivers, version: int, timeout_s: float) -> Transfer:
        """Give every engine the source's weights as `version`.

        Raises:
            EngineLost, RayActorError: An engine has not loaded them within `timeout_s` seconds.
        """
        ...

    def check(self, groups: Sequence[Rendezvous | None]) -> None:
        """Compare, as a lease begins, the broadcast group that each engine is in with the transport's own."""
        ...


def build_transport(backend: Backend | None, tensor_parallel: int) -> Transport:
    """Build the slot's transport.

    `backend` is what to broadcast over, None meaning Ray's object store; `tensor_parallel` is the number of
    workers of an engine.
    """
    return Broadcast(backend, tensor_parallel) if backend else ObjectStore()


class ObjectStore:
    """Sends the whole model through rank 0's host memory and Ray's object store."""

    def send(self, source: Source, engines: Receivers, version: int, timeout_s: float) -> Transfer:
        """Gather the weights, then have every engine load them (see `Transport`)."""
        began = time.perf_counter()
        weights = source.weights()
        gathered = time.perf_counter()
        engines.load(weights, version, timeout_s)
        return Transfer(weights.nbytes, gathered - began, time.perf_counter() - gathered)

    def check(self, groups: Sequence[Rendezvous | None]) -> None:
        """Do nothing: there is no group."""


class Broadcast:
    """Broadcasts to all engine workers at once, bucket by bucket, in a group of rank 0 and them alone.

    The group lasts until a broadcast fails or a lease finds an engine outside it. The next broadcast then
    makes a new one.
    """

    def __init__(self, backend: Backend, tensor_parallel: int, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._backend: Backend = backend
        self._tensor_parallel = tensor_parallel
        self._bucket_bytes = bucket_bytes
        self._group: Rendezvous | None = None

    def send(self, source: Source, engines: Receivers, version: int, timeout_s: float) -> Transfer:
        """Broadcast the weights while they are gathered, in a new group if needed (see `Transport`)."""
        limit = time.monotonic() + timeout_s
        try:
            if self._group is None:
                self._connect(source, engines, timeout_s)
            left = limit - time.monotonic()
            pending = engines.begin("receive", [(source.manifest(), version, left)] * len(engines))
            published = source.publish(left)
            sent = time.perf_counter()
            if published.error:
                # An engine's own error, or its death, explains more than rank 0's failure to reach it.
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
        """Give the group up unless every engine is in it: one that has restarted is not."""
        if any(group != self._group for group in groups):
            self._group = None

    def _connect(self, source: Source, engines: Receivers, timeout_s: float) -> None:
        world_size = 1 + len(engines) * self._tensor_parallel
        host = ray.util.get_node_ip_address()
        rendezvous = source.listen(Rendezvous(self._backend, host, world_size, timeout_s, self._bucket_bytes))
        first_ranks = range(1, world_size, self._tensor_parallel)
        engines.finish(engines.begin("join", [(rendezvous, rank) for rank in first_ranks]), timeout_s)
        self._group = rendezvous
