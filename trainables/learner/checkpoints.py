"""Checkpoints of a run: DeepSpeed state, the model in Hugging Face format, and the loop's own state.

Layout under a run's folder::

    checkpoint-<step>/model/        Hugging Face format, tokenizer included
    checkpoint-<step>/deepspeed/    optimizer and ZeRO state
    checkpoint-<step>/loop.json     step, compute spent, prompt order, strategy state
    checkpoint-<step>/arrays.npz    the arrays that loop.json refers to

A checkpoint appears whole or not at all: it is written beside and renamed.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from trainables.errors import SecurityError, StorageError

_ARRAY = "__array__"
FULL_BYTES = 1_000_000
"""A disk with fewer bytes left counts as full: writers stop short of the last byte."""


def save(folder: Path, step: int, state: dict[str, Any], write_model: Callable[[Path], None]) -> Path:
    """Write `checkpoint-<step>` and remove older ones. Return its folder.

    `write_model` fills the folder that it is given. `state` may hold arrays at any depth.

    Raises:
        StorageError: The disk is full. The older checkpoint is still there then.
    """
    target = folder / f"checkpoint-{step}"
    draft = folder / f".checkpoint-{step}.tmp"
    if target.exists():
        # The same step of the same run: nothing has changed, and replacing it could lose the only checkpoint.
        return target
    if draft.exists():
        shutil.rmtree(draft)
    with _whole(draft):
        write_model(draft)
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        (draft / "loop.json").write_text(json.dumps(_pack(state, arrays)))
        np.savez(draft / "arrays.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub
    draft.rename(target)
    for other in _all(folder):
        if other != target:
            shutil.rmtree(other)
    return target


@contextmanager
def _whole(draft: Path) -> Iterator[None]:
    """Make a folder, and remove it again if the block that fills it fails.

    Raises:
        StorageError: The disk is full, which torch and safetensors each report in their own way.
    """
    try:
        draft.mkdir(parents=True)
        yield
    except BaseException as error:
        free = shutil.disk_usage(draft if draft.exists() else draft.parent).free
        shutil.rmtree(draft, ignore_errors=True)
        if free < FULL_BYTES or "No space left" in str(error):
            raise StorageError(
                f"checkpoint {draft.parent}: the disk is full ({free / 1e6:.1f} MB left); free "
                "space, or set home to a larger disk"
            ) from error
        raise


def latest(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, or None."""
    found = _all(folder)
    return found[-1] if found else None


def refuse_foreign(folder: Path) -> None:
    """Refuse files that another user wrote or may write.

    DeepSpeed keeps optimizer state in torch's pickle format, which runs code when it is read. So only files
    that this user (or root) wrote may be read.

    Raises:
        SecurityError: A file belongs to another user, or everybody may write it; names the file.
    """
    for path in (folder, *folder.rglob("*")):
        found = path.stat()
        if found.st_uid not in (os.geteuid(), 0):
            raise SecurityError(
                f"checkpoint: {path} belongs to user {found.st_uid}, and reading it would run code in it; "
                "resume as the user who trained, or start afresh from the safetensors in model/"
            )
        if found.st_mode & stat.S_IWOTH and not path.is_symlink():
            raise SecurityError(
                f"checkpoint: {path} can be written by everybody, and reading it would run code in it; if "
                f"it is yours: chmod -R o-w {folder}"
            )


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Return the loop's state as it was given to `save`."""
    with np.load(checkpoint / "arrays.npz", allow_pickle=False) as arrays:
        state = _unpack(json.loads((checkpoint / "loop.json").read_text()), dict(arrays))
    if not isinstance(state, dict):
        raise TypeError(f"{checkpoint}/loop.json holds a {type(state).__name__}")
    return state


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.removeprefix("checkpoint-")))


def _pack(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    """Replace every array by a reference, so that the rest is JSON; no pickle anywhere."""
    if isinstance(value, np.ndarray):
        name = f"a{len(arrays)}"
        arrays[name] = value
        return {_ARRAY: name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {str(key): _pack(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(item, arrays) for item in value]
    return value


def _unpack(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return arrays[value[_ARRAY]]
        return {key: _unpack(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    return value
