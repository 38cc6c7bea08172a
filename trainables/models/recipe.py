"""The tiny model's recipe: everything that decides its weights, and a hash of it. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Recipe:
    """A Qwen3 of about 0.6 M parameters and its supervised warm-up on addition."""

    revision: int = 1
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
    batch: int = 256
    """Problems per warm-up step."""
    max_steps: int = 1000
    lr: float = 2e-3
    lr_warmup_steps: int = 20
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    target_accuracy: float = 0.5
    """The warm-up ends once this share of sampled (T = 1) answers to training problems is right."""
    check_every: int = 10
    """Steps between measurements of the accuracy."""
    check_prompts: int = 512
    seed: int = 0

    def digest(self) -> str:
        """Return twelve hexadecimal digits that change with any field."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
