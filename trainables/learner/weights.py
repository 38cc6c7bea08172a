"""Model parameters on their way from the learner to the rollout engines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Weights:
    """Parameters under their Hugging Face names.

    NumPy, because Ray moves NumPy arrays between processes without a copy; bfloat16, which NumPy lacks,
    travels as the uint16 of the same bits.
    """

    arrays: dict[str, npt.NDArray[Any]]
    dtype: str
    """`float32` or `bfloat16`."""

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and tensor of each parameter. The tensors are copies: arrays from Ray are read-only."""
        import torch

        for name, array in self.arrays.items():
            tensor = torch.from_numpy(np.array(array))
            yield name, tensor.view(torch.bfloat16) if self.dtype == "bfloat16" else tensor


def to_numpy(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A copy of a tensor as NumPy; bfloat16 as uint16."""
    import torch

    tensor = tensor.cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        return np.array(tensor.view(torch.uint16).numpy())
    return np.array(tensor.numpy())
