"""Depth and width of a model, from its configuration alone: no torch, no network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from trainables.models.recipe import Recipe

DEPTH = ("num_hidden_layers", "n_layer")
WIDTH = ("hidden_size", "n_embd")
"""Keys in config.json; GPT-2's have their own names."""


@dataclass(frozen=True)
class Shape:
    layers: int
    """Decoder blocks."""
    width: int
    """Numbers of a hidden state."""


def model_shape(model: str) -> Shape | None:
    """The shape of `tiny` or a local model; None where only a download would tell, or where config.json does
    not say or cannot be read (whoever loads the model complains).
    """
    if model == "tiny":
        return Shape(Recipe().layers, Recipe().hidden_size)
    path = Path(model).expanduser() / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    text = config.get("text_config", config)
    layers = next((text[key] for key in DEPTH if key in text), None)
    width = next((text[key] for key in WIDTH if key in text), None)
    return Shape(int(layers), int(width)) if layers and width else None
