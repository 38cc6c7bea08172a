"""The E rollout engines of a slot, driven as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.exceptions

from trainables.errors import EngineLost, TrimtabError
from trainables.rollouts.engine import Completions, DrawRequest, Fingerprint
from trainables.weight_sync.transport import ObjectStore, Transfer, Transport
from trainables.weight_sync.weights import Weights

if TYPE_CHECKING:
    from trainables.learner.group import LearnerGroup


class EngineGroup:
    """The engines of one lease, as the training loop sees them. Holds the handles of their actors.

    A call raises RayActorError when an engine has died, and EngineLost when one raised.
    """

    def __init__(self, actors: Sequence[Any], transport: Transport | None = None) -> None:
        self._actors = list(actors)
        self._transport: Transport = transport or ObjectStore()

    def wait(self) -> None:
        """Wait until every engine is up.

        Raises:
            RayActorError: An engine is gone for good.
        """
        ray.get([actor.ready.remote() for actor in self._actors])

    def __len__(self) -> int:
        return len(self._actors)

    def draw(self, request: DrawRequest) -> Completions:
        """Sample all rollouts, dealt over the engines in turn; the answer is in the request's order."""
        shares = [np.arange(e, request.rollouts, len(self), dtype=np.int64) for e in range(len(self))]
        pending = [
            actor.draw.remote(request.take(rows))
            for actor, rows in zip(self._actors, shares, strict=True)
            if len(rows)
        ]
        return Completions.gather(self._get(pending), np.concatenate(shares))

    def draw_on_each(self, request: DrawRequest) -> list[Completions]:
        """Sample the same request on every engine, for the parity probe."""
        completions: list[Completions] = self._get([actor.draw.remote(request) for actor in self._actors])
        return completions

    def reset(self) -> None:
        """Clear the caches of every engine. Every lease begins with it."""
        self._transport.check(self._get([actor.reset.remote() for actor in self._actors]))

    def load(self, weights: Weights, version: int, timeout_s: float = 600.0) -> None:
        """Send weights to every engine and wait until all have loaded them.

        Ray's object store holds them once, however many engines there are. An engine that has not loaded
        them within `timeout_s` seconds is killed, and Ray restarts it.

        Raises:
            RayActorError: An engine died, or was killed at the deadline.
        """
        reference = ray.put(weights)
        self.finish(self.begin("load", [(reference, version)] * len(self)), timeout_s)

    def update(self, learner: LearnerGroup, version: int, timeout_s: float) -> Transfer:
        """Give every engine the learner's weights as `version`, by the slot's transport."""
        return self._transport.send(learner, self, version, timeout_s)

    def begin(self, method: str, args: Sequence[tuple[Any, ...]]) -> dict[Any, Any]:
        """Call a method of each engine's actor, with arguments of its own. Return the actor of each task."""
        return {
            getattr(actor, method).remote(*its): actor for actor, its in zip(self._actors, args, strict=True)
        }

    def finish(self, pending: dict[Any, Any], timeout_s: float) -> None:
        """Wait for the tasks of `begin`; kill the engines that are not done after `timeout_s` seconds."""
        _, stuck = ray.wait(list(pending), num_returns=len(pending), timeout=max(0.0, timeout_s))
        for task in stuck:
            ray.kill(pending[task], no_restart=False)
        self._get(list(pending))

    def fingerprints(self) -> list[Fingerprint]:
        """Return what each engine holds."""
        found: list[Fingerprint] = self._get([actor.fingerprint.remote() for actor in self._actors])
        return found

    def rss_mb(self) -> float:
        """Return the resident memory of all engines, MB."""
        return float(sum(self._get([actor.rss_mb.remote() for actor in self._actors])))

    def _get(self, pending: Sequence[Any]) -> list[Any]:
        """Return the engines' answers.

        An engine that raised anything but a TrimtabError may hold half a batch or a broken device. All
        engines are killed then, and Ray restarts them.

        Raises:
            EngineLost: An engine raised anything but a TrimtabError.
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
