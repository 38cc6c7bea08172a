"""A folder that looks like a model: config.json, weights, a tokenizer. It cannot be run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def looks_like_a_model(folder: Path, vocabulary: dict[str, int] | None = None, **config: Any) -> Path:
    """Write the folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", **config}))
    write_weights(folder / "model.safetensors")
    tokenizer = {"model": {"type": "WordLevel", "vocab": vocabulary or {"a": 0}}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def write_weights(file: Path, names: tuple[str, ...] = ("norm.weight",)) -> None:
    """Write a safetensors file of F32 tensors of three numbers, with these names."""
    offsets = [[12 * place, 12 * place + 12] for place in range(len(names))]
    tensors = {
        name: {"dtype": "F32", "shape": [3], "data_offsets": at}
        for name, at in zip(names, offsets, strict=True)
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(12 * len(names)))
