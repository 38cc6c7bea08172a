"""The tiny model's recipe: everything that decides its weights, and a hash of it. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

from trainables.models.slips import AdditionSlips, SortingSlips


@dataclass(frozen=True)
class Recipe:
    """A Qwen3 of about 0.6 M parameters and its supervised warm-up on worked answers, right and wrong."""

    revision: int = 2
    """Raise it when a change to the warm-up's code gives other weights for the same numbers."""
    hidden_size: int = 128
    intermediate_size: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    """vLLM's CPU attention takes 32, 64, 80, 96, 112, 128 and larger."""
    max_position: int = 512
    """Longest prompt plus response, in tokens."""
    rope_theta: float = 10_000.0
    additions: int = 256
    """Additions in each warm-up step."""
    orderings: int = 96
    """Problems of the sorting task in each warm-up step."""
    addition_slips: AdditionSlips = field(default_factory=AdditionSlips)
    sorting_slips: SortingSlips = field(default_factory=SortingSlips)
    steps: int = 3000
    lr: float = 2e-3
    """Highest learning rate. It falls to 0 by a cosine: weights that still jitter would be what RL smooths,
    in place of the slips."""
    lr_warmup_steps: int = 50
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    seed: int = 0

    def digest(self) -> str:
        """Return twelve hexadecimal digits that change with any field."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:12]

    def text(self) -> str:
        """Return the recipe as JSON."""
        return json.dumps(asdict(self), sort_keys=True, indent=1)
