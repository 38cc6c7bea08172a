"""The learner's end of a weight broadcast: parameters leave rank 0 in buckets while they are gathered.

Wire format: the parameters' bytes one after another, in `manifest` order; a bucket ends with the parameter
that takes it beyond `bucket_bytes`. This is the packed format of vLLM's NCCL weight-transfer engine, which is
the receiver on GPUs.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from trainables.config import Backend
from trainables.weight_sync.gloo import broadcast, join, listen

BUCKET_BYTES = 256 * 2**20

Manifest = list[tuple[str, str, list[int]]]
"""Name, dtype and shape of each parameter, in the order in which they are sent."""


@dataclass(frozen=True)
class Rendezvous:
    """Where the engines' workers meet rank 0."""

    backend: Backend
    host: str
    world_size: int
    """Number of members: rank 0 and every engine worker, tensor-parallel ones included."""
    timeout_s: float
    bucket_bytes: int = BUCKET_BYTES
    port: int = 0
    """Chosen by rank 0; 0 = not yet."""


@dataclass(frozen=True)
class Published:
    """What one broadcast took on a rank. `error` is set if the engines did not get all of it."""

    nbytes: int = 0
    gather_s: float = 0.0
    send_s: float = 0.0
    error: str | None = None


class Endpoint(Protocol):
    """Rank 0's place in the group that it forms with the engine workers."""

    rendezvous: Rendezvous

    def send(self, bucket: torch.Tensor, timeout_s: float) -> None:
        """Broadcast a bucket of bytes, (N,) uint8.

        Raises:
            RuntimeError: A peer is gone.
            TimeoutError: A peer is not done after `timeout_s` seconds.
        """
        ...

    def close(self) -> None:
        """Leave the group; peers that still wait get an error."""
        ...


def open_endpoint(where: Rendezvous, device: torch.device) -> Endpoint:
    """Start listening on a free port. Returns before anyone has joined."""
    return NcclEndpoint(where, device) if where.backend == "nccl" else GlooEndpoint(where)


class GlooEndpoint:
    """Rank 0's place on CPUs: a gloo group."""

    def __init__(self, where: Rendezvous) -> None:
        store = listen(where.host, where.timeout_s)
        self.rendezvous = replace(where, port=store.port)
        self._group = _in_background(lambda: join(store, where.host, 0, where.world_size, where.timeout_s))

    def send(self, bucket: torch.Tensor, timeout_s: float) -> None:
        """Broadcast a bucket of bytes, (N,) uint8 (see `Endpoint`)."""
        limit = time.monotonic() + timeout_s
        group = self._group.result(timeout_s)
        broadcast(group, bucket.cpu(), limit - time.monotonic())

    def close(self) -> None:
        """Leave the group; peers that still wait get an error."""
        if self._group.done() and not self._group.exception():
            self._group.result().abort()


class NcclEndpoint:
    """Rank 0's place on GPUs: vLLM's communicator. Written against vLLM 0.32; has not been run."""

    def __init__(self, where: Rendezvous, device: torch.device) -> None:
        from vllm.distributed.weight_transfer.nccl_common import stateless_init_process_group

        self._device = device
        self.rendezvous = replace(where, port=_free_port(where.host))
        meeting = (where.host, self.rendezvous.port, 0, where.world_size)
        self._group = _in_background(lambda: stateless_init_process_group(*meeting, device=device))

    def send(self, bucket: torch.Tensor, timeout_s: float) -> None:
        """Broadcast a bucket of bytes, (N,) uint8 (see `Endpoint`)."""
        limit = time.monotonic() + timeout_s
        group = self._group.result(timeout_s)
        with torch.cuda.device(self._device):
            group.broadcast(bucket, src=0, stream=torch.cuda.current_stream())
            sent = torch.cuda.Event()
            sent.record()
        # NCCL itself waits forever.
        while not sent.query():
            if time.monotonic() > limit:
                raise TimeoutError(f"no answer from the engines within {timeout_s:.0f} s")
            time.sleep(0.001)

    def close(self) -> None:
        """Leave the group; peers that still wait get an error."""
        if self._group.done() and not self._group.exception():
            self._group.result().destroy()


def manifest(model: torch.nn.Module) -> Manifest:
    """Describe what `stream` will send. Gathers nothing: `ds_shape` is the whole shape of a ZeRO-3 shard."""
    return [
        (name, str(p.dtype).removeprefix("torch."), list(getattr(p, "ds_shape", p.shape)))
        for name, p in model.named_parameters()
    ]


def whole_parameters(model: torch.nn.Module, zero_stage: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and whole tensor of each parameter. Under ZeRO-3 it is collective over the ranks."""
    import deepspeed

    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]) if zero_stage == 3 else nullcontext():
            yield name, parameter.detach()


def stream(
    named: Iterable[tuple[str, torch.Tensor]],
    endpoint: Endpoint | None,
    timeout_s: float,
    patience_s: float,
) -> Published:
    """Send every parameter within `timeout_s` seconds, and each bucket within `patience_s`.

    Ranks without an `endpoint` only take part in the gathers. A failure to send is returned, not raised, and
    the gathers run to the end, because the other ranks are in them.
    """
    if endpoint is None:
        for _ in named:
            pass
        return Published()
    limit = time.monotonic() + timeout_s
    nbytes, gather_s, send_s, error = 0, 0.0, 0.0, None
    began = time.perf_counter()
    for bucket in buckets((tensor for _, tensor in named), endpoint.rendezvous.bucket_bytes):
        gathered = time.perf_counter()
        if error is None:
            try:
                endpoint.send(bucket, min(patience_s, limit - time.monotonic()))
            except (RuntimeError, TimeoutError) as failure:
                error = f"{type(failure).__name__}: {failure}"
        nbytes += bucket.numel()
        gather_s += gathered - began
        began = time.perf_counter()
        send_s += began - gathered
    return Published(nbytes, gather_s, send_s, error)


def buckets(tensors: Iterable[torch.Tensor], limit: int) -> Iterator[torch.Tensor]:
    """Cut the tensors' bytes into one-dimensional uint8 buckets, each of more than `limit` but the last."""
    parts: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        parts.append(tensor.contiguous().view(-1).view(torch.uint8))
        size += parts[-1].numel()
        if size > limit:
            yield torch.cat(parts)
            parts, size = [], 0
    if parts:
        yield torch.cat(parts)


def _in_background(work: Callable[[], Any]) -> Future[Any]:
    """Start `work` in a daemon thread: a rendezvous may never end, and must not keep the process alive."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001  # raised by whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, name="weight-rendezvous", daemon=True).start()
    return future


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
