"""A gloo group of its own between processes of different Ray actors, with a deadline on every wait."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any

import torch
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import BroadcastOptions, PrefixStore, ProcessGroupGloo


def listen(host: str, timeout_s: float) -> TCPStore:
    """Open the store at which a group meets, on a free port of this machine (`.port`)."""
    return TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout_s))


def dial(host: str, port: int, rank: int, world_size: int, timeout_s: float) -> Any:
    """Join the group that meets at an address.

    Raises:
        DistError: The group is not complete within `timeout_s` seconds.
    """
    store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout_s))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))  # sends nothing: it only asks for the route
        own = probe.getsockname()[0]
    return join(store, own, rank, world_size, timeout_s)


def join(store: TCPStore, own_host: str, rank: int, world_size: int, timeout_s: float) -> Any:
    """Join the group at a store. It is separate from torch's default group, which the learner's ranks use.

    Raises:
        DistError: The group is not complete within `timeout_s` seconds.
    """
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    # By default gloo takes the address that the host name resolves to, which is often the loopback.
    options._devices = [ProcessGroupGloo.create_device(hostname=own_host)]
    options._timeout = timedelta(seconds=timeout_s)
    return ProcessGroupGloo(PrefixStore("weights", store), rank, world_size, options)


def broadcast(group: Any, tensor: torch.Tensor, timeout_s: float) -> None:
    """Copy rank 0's `tensor` into everyone's.

    Raises:
        RuntimeError: A peer is gone, or is not done after `timeout_s` seconds.
        TimeoutError: `timeout_s` is not positive: the deadline has passed.
    """
    if timeout_s <= 0:
        raise TimeoutError("the deadline of the weight broadcast has passed")
    options = BroadcastOptions()
    options.rootRank, options.rootTensor = 0, 0
    options.timeout = timedelta(seconds=timeout_s)
    group.broadcast([tensor], options).wait()
