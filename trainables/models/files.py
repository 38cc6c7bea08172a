"""Whether a model's folder holds whole weights and a tokenizer: from headers and sizes, without torch.

A file that was cut short by a full disk or a broken copy would otherwise be found by the learner, minutes
after a sweep began. The format: github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from trainables.errors import ModelError
from trainables.models.shape import read_config

SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"
TOKENIZERS = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("tekken.json",),
)
"""What `AutoTokenizer` builds a tokenizer from: one of these sets of files."""
LARGEST_HEADER = 100_000_000
"""Bytes; safetensors refuses more."""
BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Size of a number of each type; of a type that is not here only the place is checked."""
EMBEDDING = "embed_tokens.weight"
"""How the name of the embedding ends in decoders of the Llama and Qwen kind."""


@dataclass(frozen=True)
class _Folder:
    """A model's folder and the field that names it in a spec."""

    path: Path
    field: str

    def refuse(self, what: str, fix: str = "copy or save the model there again") -> ModelError:
        return ModelError(f"{self.field}: {what}; {fix}")


def check_weights(folder: Path, config: Mapping[str, Any], field: str = "trial.model") -> None:
    """Refuse a folder without weights, or whose weights are cut short or not those of its config.json.

    Reads the headers alone. Of weights in PyTorch's own format it is checked that the files are there.

    Raises:
        ModelError: names the file, what is wrong with it and the fix.
    """
    found = _Folder(folder, field)
    tensors: dict[str, Any] = {}
    if (folder / SAFETENSORS).is_file():
        tensors = _header(found, folder / SAFETENSORS)
    elif (folder / (SAFETENSORS + INDEX)).is_file():
        tensors = _sharded(found, folder / (SAFETENSORS + INDEX))
    elif (folder / (PICKLED + INDEX)).is_file():
        _shards(found, folder / (PICKLED + INDEX))
    elif not (folder / PICKLED).is_file():
        raise found.refuse(
            f"{str(folder)!r} holds no weights ({SAFETENSORS}, or {SAFETENSORS}{INDEX} and its files)",
            "give the directory that `save_pretrained` wrote to",
        )
    _check_embedding(found, tensors, config)


def check_tokenizer(folder: Path, field: str = "trial.model") -> None:
    """Refuse a folder without a tokenizer, or with one that cannot be read.

    Raises:
        ModelError: names what is missing and the fix.
    """
    if not any(all((folder / name).is_file() for name in names) for names in TOKENIZERS):
        raise ModelError(
            f"{field}: {str(folder)!r} holds no tokenizer (tokenizer.json, tokenizer.model, or vocab.json "
            "with merges.txt); save it there too: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    file = folder / "tokenizer.json"
    if file.is_file() and not isinstance(read_config(file, field).get("model"), dict):
        raise ModelError(f"{field}: {str(file)!r} does not describe a tokenizer; save it there again")


def _header(folder: _Folder, file: Path) -> dict[str, Any]:
    """Return the tensors that a safetensors file announces, all of which it holds."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, LARGEST_HEADER):
            raise folder.refuse(f"{str(file)!r} ({size:,} bytes) is no safetensors file, or is cut short")
        text = opened.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise folder.refuse(f"{str(file)!r} is no safetensors file: its header is not JSON")
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if not tensors:
        raise folder.refuse(f"{str(file)!r} holds no tensors")
    end = max(_end(folder, file, name, entry) for name, entry in tensors.items())
    if size != 8 + length + end:
        what = "is cut short" if size < 8 + length + end else "is too long"
        raise folder.refuse(f"{str(file)!r} {what}: it has {size:,} bytes of {8 + length + end:,}")
    return tensors


def _end(folder: _Folder, file: Path, name: str, entry: Any) -> int:
    """Return the byte behind a tensor, counted from the end of the header."""
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        bits = prod(shape) * BITS[kind] if kind in BITS else 8 * (end - begin)
        right = 0 <= begin <= end and 8 * (end - begin) == bits
    except (KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise folder.refuse(f"{str(file)!r}: the size of tensor {name!r} is not that of its shape")
    return int(end)


def _sharded(folder: _Folder, index: Path) -> dict[str, Any]:
    """Return the tensors of all files of an index, each of which is in the file that the index names."""
    placed = _shards(folder, index)
    held = {shard: _header(folder, folder.path / shard) for shard in dict.fromkeys(placed.values())}
    for name, shard in placed.items():
        if name not in held[shard]:
            raise folder.refuse(
                f"tensor {name!r} is not in {str(folder.path / shard)!r}, as {index.name} says"
            )
    return {name: held[shard][name] for name, shard in placed.items()}


def _shards(folder: _Folder, index: Path) -> dict[str, str]:
    """Return the file of each tensor; all files are there."""
    placed = read_config(index, folder.field).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(s, str) for s in placed.values()):
        raise folder.refuse(f"{str(index)!r} has no weight_map")
    shards = list(dict.fromkeys(placed.values()))
    missing = [shard for shard in shards if not (folder.path / shard).is_file()]
    if missing:
        raise folder.refuse(
            f"{str(folder.path)!r} lacks {len(missing)} of the {len(shards)} files of weights, such as "
            f"{missing[0]}"
        )
    return placed


def _check_embedding(folder: _Folder, tensors: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse weights of another model than config.json describes, where their names tell."""
    text = config.get("text_config", config)
    wanted = [text.get("vocab_size"), text.get("hidden_size")]
    found = [entry["shape"] for name, entry in tensors.items() if name.endswith(f"model.{EMBEDDING}")]
    if len(found) == 1 and all(isinstance(size, int) for size in wanted) and found[0] != wanted:
        raise folder.refuse(
            f"config.json in {str(folder.path)!r} says {wanted[0]:,} tokens of {wanted[1]:,} numbers, and "
            f"the weights have an embedding of {' x '.join(f'{size:,}' for size in found[0])}"
        )
