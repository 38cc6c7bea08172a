"""Vectors of a run's training prompts, each computed at its first use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainables.value_models.config import EncoderConfig
from trainables.value_models.encoder import Encoder, Float32, make_encoder


@dataclass
class VectorTable:
    """Maps prompt ids to vectors: from memory, then from the cache on disk, then by the encoder."""

    config: EncoderConfig
    texts: Sequence[str]
    _encoder: Encoder | None = field(default=None, repr=False)
    _known: dict[int, Float32] = field(default_factory=dict, repr=False)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Return the widths of the parts of a vector."""
        return self._made().blocks

    def __call__(self, prompt_P: npt.NDArray[np.int64]) -> Float32:
        """Return the (P, F) vectors of prompt ids."""
        ids = prompt_P.tolist()
        new = sorted({i for i in ids if i not in self._known})
        if new:
            self._known.update(zip(new, self._made().encode([self.texts[i] for i in new]), strict=True))
        if not ids:
            return np.zeros((0, sum(self.blocks)), np.float32)
        return np.stack([self._known[i] for i in ids])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_encoder": None}

    def _made(self) -> Encoder:
        if self._encoder is None:
            self._encoder = make_encoder(self.config, cache_folder())
        return self._encoder


def cache_folder() -> Path:
    """Return the folder of embeddings: `$TRIMTAB_CACHE/embeddings`, by default under ~/.cache/trimtab."""
    return Path(os.environ.get("TRIMTAB_CACHE", "~/.cache/trimtab")).expanduser() / "embeddings"
