"""vLLM's weight transfer over gloo, for CPUs: the lifecycle and the bytes are those of its NCCL engine."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLWeightTransferEngine,
    NCCLWeightTransferInitInfo,
    NCCLWeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.packed_tensor import unpack_tensor

from trainables.weight_sync.gloo import broadcast, dial


@dataclass(kw_only=True)
class GlooInitInfo(NCCLWeightTransferInitInfo):
    """What vLLM's NCCL engine is told, plus a deadline."""

    timeout_s: float
    """Seconds to wait for the group to be complete, and for one update."""


class GlooTransferEngine(NCCLWeightTransferEngine):
    """An engine worker's end of a broadcast."""

    init_info_cls = GlooInitInfo
    _group: Any = None

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Join the learner's group."""
        self.packed_buffer_size_bytes = init_info.packed_buffer_size_bytes
        self._timeout_s = init_info.timeout_s
        self._group = dial(
            init_info.master_address,
            init_info.master_port,
            init_info.rank_offset + self.parallel_config.rank,
            init_info.world_size,
            init_info.timeout_s,
        )

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive one broadcast of all parameters."""
        # vLLM's own method then waits for the accelerator, which raises on a machine without one.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: NCCLWeightTransferUpdateInfo) -> None:
        """Receive all buckets and load their parameters, within `timeout_s` seconds.

        Raises:
            RuntimeError: The engine has not joined a group, or the learner is gone.
            TimeoutError: The deadline has passed.
        """
        if self._group is None:
            raise RuntimeError("this engine has not joined the learner's group")
        limit = time.monotonic() + self._timeout_s
        for part in _buckets(update_info, self.packed_buffer_size_bytes):
            names, dtypes, shapes, sizes = (list(column) for column in zip(*part, strict=True))
            bucket = torch.empty(sum(sizes), dtype=torch.uint8)
            broadcast(self._group, bucket, limit - time.monotonic())
            self.model.load_weights(unpack_tensor(bucket, names, shapes, dtypes, sizes))

    def shutdown(self) -> None:
        """Leave the group."""
        self._group = None


Entry = tuple[str, torch.dtype, list[int], int]
"""Name, dtype, shape and bytes of one parameter."""


def _buckets(info: NCCLWeightTransferUpdateInfo, limit: int) -> Iterator[list[Entry]]:
    """Yield the parameters of each bucket, cut as the sender cuts them (`publish.buckets`)."""
    part: list[Entry] = []
    for name, dtype_name, shape in zip(info.names, info.dtype_names, info.shapes, strict=True):
        dtype = getattr(torch, dtype_name)
        part.append((name, dtype, shape, math.prod(shape) * dtype.itemsize))
        if sum(size for *_, size in part) > limit:
            yield part
            part = []
    if part:
        yield part


class GlooWorker:
    """Adds nothing to vLLM's workers, but makes each of their processes import this module."""


WeightTransferEngineFactory.register_engine("gloo", GlooTransferEngine)
