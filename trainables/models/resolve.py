"""From `model:` in a spec to something `from_pretrained` takes."""

from __future__ import annotations

import re
from pathlib import Path

from trainables.errors import ModelError
from trainables.models.files import check_tokenizer, check_weights
from trainables.models.shape import TINY, read_config
from trainables.models.tiny import ensure_tiny

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_model(model: str) -> None:
    """Refuse a model that is neither built in, nor a directory to load, nor shaped like a hub id.

    A directory must hold whole weights and a tokenizer. Quick: reads headers and sizes, and no network.

    Raises:
        ModelError: with the path and the fix.
    """
    path = Path(model).expanduser()
    if model == TINY or is_hub_id(model, path):
        return
    if not path.exists():
        raise ModelError(
            f"trial.model: {model!r} does not exist; give {TINY!r} (built in), a directory in Hugging Face "
            "format, or a hub id such as 'owner/name'"
        )
    config = path / "config.json"
    if not config.is_file():
        raise ModelError(
            f"trial.model: {model!r} holds no config.json; give the directory that `save_pretrained` wrote to"
        )
    made_of = read_config(config)
    if not isinstance(made_of.get("model_type"), str):
        raise ModelError(
            f"trial.model: {str(config)!r} does not name a model_type; save the model there again"
        )
    check_weights(path, made_of)
    check_tokenizer(path)


def resolve_model(model: str, cache: Path) -> Path | str:
    """Return the directory of the tiny model, in `cache`, or of a local one; a hub id as it is.

    Raises:
        ModelError: a local path does not hold a model, or a shipped file is not what its hash says.
    """
    check_model(model)
    if model == TINY:
        return ensure_tiny(cache)
    path = Path(model).expanduser()
    return model if is_hub_id(model, path) else path.resolve()


def is_hub_id(model: str, path: Path) -> bool:
    """Tell whether `model` is a hub id: `owner/name`, where neither that nor `owner` is a directory here.

    A misspelt path must not be looked for on the hub.
    """
    return bool(HUB_ID.fullmatch(model)) and not path.parent.is_dir() and not path.exists()
