"""W learner ranks driven as one. Rank 0 holds a `LearnerGroup`; the others run `follow`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from trainables.config import LearnerConfig, LossConfig
from trainables.errors import LearnerLost
from trainables.learner.features import FeaturePlan
from trainables.learner.rank import Learner
from trainables.learner.results import Forward, UpdateStats, ValueStats
from trainables.learner.tokens import Float32, TokenBatch, TrainBatch, deal, ragged_index
from trainables.learner.value_batch import ValueBatch
from trainables.strategies.batch import CriticNeeds, Features
from trainables.weight_sync.publish import Manifest, Published, Rendezvous, open_endpoint
from trainables.weight_sync.weights import Weights


@dataclass(frozen=True)
class _Call:
    """One collective command: the same method on every rank, with that rank's arguments."""

    method: str
    args: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _Failure:
    error: Exception

    @property
    def collective(self) -> bool:
        """True: this rank failed only because another one did not take part."""
        return isinstance(self.error, dist.DistError) or "gloo" in str(self.error)


class LearnerGroup:
    """The whole learner, as the training loop sees it. Lives on rank 0.

    Rollouts are dealt to the ranks by length, and results are put back into the caller's order, so that the
    number of ranks never shows. A call raises LearnerLost when ranks are dead or out of step.
    """

    def __init__(self, learner: Learner, control: Any = None) -> None:
        self._learner = learner
        self._control = control
        self.broken = False
        """True: ranks are dead or out of step; only new processes can continue."""

    @property
    def world_size(self) -> int:
        """Number of ranks, W."""
        return self._learner.world_size

    @property
    def dtype(self) -> str:
        """`float32` or `bfloat16`."""
        return str(self._learner.dtype()).removeprefix("torch.")

    def reset(
        self,
        model: str,
        config: LearnerConfig,
        temperature: float,
        seed: int,
        critic: CriticNeeds | None = None,
        reference: str | None = None,
    ) -> None:
        """Load base weights, a fresh optimizer, seeds, and a critic and a reference if they are needed.

        Every lease begins with it. The last trial's reference is gone afterwards.

        Raises:
            ModelError: The reference has another vocabulary.
        """
        self._all("reset", model, config, temperature, seed, critic, reference)

    def forward(self, batch: TokenBatch, plan: FeaturePlan | None = None) -> Forward:
        """Return teacher-forced log-probs (M,) and entropies (M,), nats, in the batch's order.

        With a `plan`, the pooled hidden states that it names are returned as well.
        """
        rows = deal(batch, self.world_size)
        parts = self._each("forward", [(batch.take(rank_rows), plan) for rank_rows in rows])
        logprob_M = np.empty(batch.response_tokens, dtype=np.float32)
        entropy_M = np.empty(batch.response_tokens, dtype=np.float32)
        for rank_rows, part in zip(rows, parts, strict=True):
            index = ragged_index(batch.response_length_N, rank_rows)
            logprob_M[index] = part.logprob_M
            entropy_M[index] = part.entropy_M
        if plan is None:
            return Forward(logprob_M, entropy_M)
        back = np.argsort(np.concatenate(rows))
        return Forward(logprob_M, entropy_M, Features.concatenate([p.features for p in parts]).take(back))

    @property
    def layers(self) -> int:
        """Decoder blocks of the policy."""
        return self._learner.layers

    def update(self, batch: TrainBatch, loss: LossConfig) -> UpdateStats:
        """Make one optimizer update on a mini-batch.

        Raises:
            DivergedError: The gradient norm is not finite.
        """
        parts: Sequence[UpdateStats] = self._each(
            "update", [(batch.take(rows), loss) for rows in deal(batch.tokens, self.world_size)]
        )
        return dataclasses.replace(
            parts[0],
            loss=sum(p.loss for p in parts),
            clipped_tokens=sum(p.clipped_tokens for p in parts),
            capped_tokens=sum(p.capped_tokens for p in parts),
            tokens=sum(p.tokens for p in parts),
            kl_reference=sum(p.kl_reference for p in parts),
        )

    def values(self, batch: TokenBatch) -> Float32:
        """Return the critic's value (M,) of the state that each response token is drawn from, in order."""
        return self._per_token("values", batch)

    def reference_logprobs(self, batch: TokenBatch) -> Float32:
        """Return the log-prob (M,) of each response token under the reference, nats, in order."""
        return self._per_token("reference_logprobs", batch)

    def update_values(self, batch: ValueBatch) -> ValueStats:
        """Make one update of the critic.

        Raises:
            DivergedError: The gradient norm is not finite.
        """
        parts: Sequence[ValueStats] = self._each(
            "update_values", [(batch.take(rows),) for rows in deal(batch.tokens, self.world_size)]
        )
        return dataclasses.replace(
            parts[0], loss=sum(p.loss for p in parts), clipped=sum(p.clipped for p in parts)
        )

    def gradient_products(
        self, first: TrainBatch, second: TrainBatch, loss: LossConfig
    ) -> tuple[float, float, float]:
        """Return |g1|^2, |g2|^2 and g1 . g2 of two batches' gradients; see `loop.metrics.noise_metrics`."""
        deals = [deal(batch.tokens, self.world_size) for batch in (first, second)]
        shares = [(first.take(a), second.take(b), loss) for a, b in zip(*deals, strict=True)]
        products: tuple[float, float, float] = self._each("gradient_products", shares)[0]
        return products

    def weights(self) -> Weights:
        """Gather all parameters on this rank."""
        weights: Weights = self._all("weights")[0]
        return weights

    def checksum(self) -> str:
        """Hash all parameters as `Weights.checksum` does; no rank holds more than one of them whole."""
        found: str = self._all("checksum")[0]
        return found

    def listen(self, where: Rendezvous) -> Rendezvous:
        """Open a new group for weight broadcasts. Return where the engines' workers can join it."""
        self.hang_up()
        self._learner.endpoint = open_endpoint(where, self._learner.device)
        return self._learner.endpoint.rendezvous

    def hang_up(self) -> None:
        """Leave the broadcast group, if any; engine workers that wait in it get an error."""
        endpoint, self._learner.endpoint = self._learner.endpoint, None
        if endpoint is not None:
            endpoint.close()

    def manifest(self) -> Manifest:
        """Return name, dtype and shape of what `publish` sends."""
        return self._learner.manifest()

    def publish(self, timeout_s: float) -> Published:
        """Broadcast all parameters to the group. A failure is returned (`Published.error`), not raised."""
        published: Published = self._all("publish", timeout_s)[0]
        return published

    def save(self, folder: Path) -> None:
        """Write model, optimizer state and critic into a folder."""
        self._all("save", folder)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote."""
        self._all("load", folder)

    def close(self) -> None:
        """Give the engines' memory back."""
        self._all("close")

    def idle(self) -> None:
        """Let waiting ranks know that rank 0 is alive; their collective wait would time out otherwise."""
        if self.world_size > 1:
            self._all("rank_alive")

    def dismiss(self) -> None:
        """End `follow` on the other ranks."""
        if self.world_size > 1 and not self.broken:
            dist.scatter_object_list([None], [None] * self.world_size, src=0, group=self._control)

    def _all(self, method: str, *args: Any) -> list[Any]:
        return self._each(method, [args] * self.world_size)

    def _per_token(self, method: str, batch: TokenBatch) -> Float32:
        """Call a method that gives a number per response token. Return all, (M,), in the batch's order."""
        rows = deal(batch, self.world_size)
        found_M = np.empty(batch.response_tokens, dtype=np.float32)
        parts = self._each(method, [(batch.take(rank_rows),) for rank_rows in rows])
        for rank_rows, part_M in zip(rows, parts, strict=True):
            found_M[ragged_index(batch.response_length_N, rank_rows)] = part_M
        return found_M

    def _each(self, method: str, args_per_rank: Sequence[tuple[Any, ...]]) -> list[Any]:
        if self.world_size == 1:
            return [getattr(self._learner, method)(*args_per_rank[0])]
        calls = [_Call(method, args) for args in args_per_rank]
        mine: list[Any] = [None]
        results: list[Any] = [None] * self.world_size
        try:
            dist.scatter_object_list(mine, calls, src=0, group=self._control)
            dist.gather_object(_run(self._learner, mine[0]), results, dst=0, group=self._control)
        except RuntimeError as error:  # what gloo raises when a rank has died
            self.broken = True
            raise LearnerLost(f"a learner worker cannot be reached: {error}") from None
        self._check(results)
        return results

    def _check(self, results: Sequence[Any]) -> None:
        """Raise what the ranks raised.

        Raises:
            LearnerLost: Not every rank raised by itself, so they are out of step.
        """
        failures = [result for result in results if isinstance(result, _Failure)]
        if not failures:
            return
        own = [failure.error for failure in failures if not failure.collective]
        if len(own) == len(results):
            raise own[0]
        self.broken = True
        if own:
            first = f"{type(own[0]).__name__}: {own[0]}"
            raise LearnerLost(f"a learner worker failed alone ({first})") from own[0]
        raise LearnerLost(f"learner workers lost each other: {failures[0].error}")


def open_control(world_size: int, timeout_s: float) -> Any:
    """Open the channel for commands and results. Every rank calls it. Returns None for a single rank.

    Commands are Python objects, so the channel is gloo's whatever backend the tensors use. A rank that gets
    no command for `timeout_s` seconds gives up, which breaks the group.
    """
    if world_size == 1:
        return None
    return dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))


def follow(learner: Learner, control: Any) -> None:
    """Serve rank 0's commands until it dismisses this rank. Runs on every rank but 0."""
    while True:
        mine: list[Any] = [None]
        dist.scatter_object_list(mine, None, src=0, group=control)
        if mine[0] is None:
            return
        dist.gather_object(_run(learner, mine[0]), None, dst=0, group=control)


def _run(learner: Learner, call: _Call) -> Any:
    method: Callable[..., Any] = getattr(learner, call.method)
    try:
        return method(*call.args)
    except Exception as error:  # noqa: BLE001  # rank 0 raises it; the ranks stay in step
        return _Failure(error)
