"""A hash that decides, for ever, which split a made problem may serve and in which order problems come."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainables.tasks.base import Split

Codes = npt.NDArray[np.int64]
"""Problems as numbers."""

PARTS: dict[Split, tuple[int, ...]] = {"train": (2, 3), "validation": (0,), "test": (1,)}
"""Hash quarters of each split: half of all problems are for training, a quarter each for the others."""


def mix(codes: Codes, salt: int) -> npt.NDArray[np.uint64]:
    """Hash codes by splitmix64, which, unlike a NumPy generator's shuffle, never changes between versions."""
    salted = (salt * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64
    z = codes.astype(np.uint64) * np.uint64(0xD1342543DE82EF95) + np.uint64(salted)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def may_serve(codes: Codes, name: Split) -> npt.NDArray[np.bool_]:
    """Tell which problems may serve one split."""
    return np.isin(mix(codes, salt=0) % np.uint64(4), PARTS[name])
