"""Model parameters on their way from the learner to the rollout engines."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Weights:
    """Parameters under their Hugging Face names.

    They are NumPy arrays because Ray moves those between processes without a copy. bfloat16, which NumPy
    lacks, is stored as uint16 with the same bits.
    """

    arrays: dict[str, npt.NDArray[Any]]
    dtype: str
    """`float32` or `bfloat16`."""

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters."""
        return sum(array.nbytes for array in self.arrays.values())

    def checksum(self) -> str:
        """Hash all parameters, to the bit."""
        return checksum(self.arrays.items())

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield name and tensor of each parameter. The tensors are copies: arrays from Ray are read-only."""
        import torch

        for name, array in self.arrays.items():
            tensor = torch.from_numpy(np.array(array))
            yield name, tensor.view(torch.bfloat16) if self.dtype == "bfloat16" else tensor


def checksum(arrays: Iterable[tuple[str, npt.NDArray[Any]]]) -> str:
    """Hash named arrays, whatever their order, to the bit. Detects accidents, not attacks."""
    parts = sorted(f"{name} {zlib.crc32(np.ascontiguousarray(array).data):08x}" for name, array in arrays)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def to_numpy(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """Copy a tensor to NumPy; bfloat16 as uint16."""
    import torch

    tensor = tensor.cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        return np.array(tensor.view(torch.uint16).numpy())
    return np.array(tensor.numpy())
