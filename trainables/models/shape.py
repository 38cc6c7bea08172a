"""What a model is made of, from its config.json alone: no torch, no network, no weights.

One reader (`read_config`) and two views: `depth_and_width` of any architecture, for the checks of a strategy;
`model_shape` of a dense decoder, for the estimate of memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.errors import ModelError
from trainables.models.recipe import Recipe

TINY = "tiny"
"""What a spec calls the built-in model."""
DEPTH = ("num_hidden_layers", "n_layer")
WIDTH = ("hidden_size", "n_embd")
"""Keys in config.json; GPT-2's have names of their own."""


def read_config(file: Path, field: str = "trial.model") -> dict[str, Any]:
    """Read a model's config.json as a mapping. `field` names the model in a spec.

    Raises:
        ModelError: it cannot be read as one.
    """
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{field}: {str(file)!r} cannot be read as JSON ({error}); save the model there again"
        ) from None
    if not isinstance(raw, dict):
        raise ModelError(f"{field}: {str(file)!r} does not hold a mapping; save the model there again")
    return raw


@dataclass(frozen=True)
class Size:
    layers: int
    """Decoder blocks."""
    width: int
    """Numbers of a hidden state."""


def depth_and_width(model: str) -> Size | None:
    """Return the size of `tiny` or of a local model of any architecture.

    None where only a download would tell, and where config.json does not say or cannot be read: the check of
    the model (`resolve.check_model`) complains about that.
    """
    if model == TINY:
        return Size(Recipe().layers, Recipe().hidden_size)
    try:
        config = read_config(Path(model).expanduser() / "config.json")
    except ModelError:
        return None
    text = config.get("text_config", config)
    layers = next((text[key] for key in DEPTH if key in text), None)
    width = next((text[key] for key in WIDTH if key in text), None)
    return Size(int(layers), int(width)) if layers and width else None


@dataclass(frozen=True)
class ModelShape:
    """A dense decoder-only transformer of the Llama and Qwen kind."""

    layers: int
    hidden: int
    intermediate: int
    """Width of the gated feed-forward part."""
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    """Whether the output layer is the embedding."""

    @property
    def parameters(self) -> int:
        """Weights, norms of a head's width left out (below a thousandth)."""
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        block = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * block + (1 if self.tied else 2) * self.vocabulary * self.hidden + self.hidden

    @property
    def cache_numbers(self) -> int:
        """Keys and values of one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    @property
    def activation_numbers(self) -> int:
        """Numbers that one token leaves in all blocks for the backward pass, without recomputation.

        Inputs and outputs of both norms and both residuals; queries, keys and values before and after
        rotation; the attention's output; four vectors of the feed-forward part's width.
        """
        attention = 2 * (self.heads + 2 * self.kv_heads) * self.head_dim + self.heads * self.head_dim
        return self.layers * (6 * self.hidden + attention + 4 * self.intermediate)


# From config.json of these models on the hub (huggingface.co/Qwen/Qwen3-4B/blob/main/config.json).
QWEN3_4B = ModelShape(36, 2560, 9728, 32, 8, 128, 151936, tied=True)
KNOWN = dict.fromkeys(("Qwen/Qwen3-4B", "Qwen/Qwen3-4B-Base", "Qwen/Qwen3-4B-Instruct-2507"), QWEN3_4B)


def model_shape(model: str) -> ModelShape | None:
    """Return the shape of a local model, or of a hub id that is known or cached here, without the network.

    None where it cannot be told: another architecture, or no copy here.

    Raises:
        ModelError: config.json does not hold a JSON mapping.
    """
    if model in KNOWN:
        return KNOWN[model]
    file = config_file(model)
    return None if file is None else _shape(read_config(file))


def config_file(model: str) -> Path | None:
    """Return config.json of a local model, or of a hub id that is cached here; None where there is none."""
    local = Path(model).expanduser() / "config.json"
    if local.is_file():
        return local
    if model.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, "config.json")
    return Path(cached) if isinstance(cached, str) else None


def _shape(raw: dict[str, Any]) -> ModelShape | None:
    """None for anything but a dense decoder with a gated feed-forward part."""
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    if any(not isinstance(raw.get(name), int) for name in names) or "num_experts" in raw:
        return None
    heads = raw["num_attention_heads"]
    return ModelShape(
        layers=raw["num_hidden_layers"],
        hidden=raw["hidden_size"],
        intermediate=raw["intermediate_size"],
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        vocabulary=raw["vocab_size"],
        tied=bool(raw.get("tie_word_embeddings", False)),
    )
