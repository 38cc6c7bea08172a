"""From `model:` in a spec to something `from_pretrained` takes."""

from __future__ import annotations

from pathlib import Path

from trainables.errors import ModelError
from trainables.models.tiny import ensure_tiny

TINY = "tiny"


def check_model(model: str) -> None:
    """Refuse a local model path that cannot be loaded. Quick: makes nothing and reads no network.

    Raises ModelError naming the path and the fix.
    """
    path = Path(model).expanduser()
    if model == TINY or _is_hub_id(model, path):
        return
    if not path.exists():
        raise ModelError(
            f"model: {model!r} does not exist; give `{TINY}`, a directory in Hugging Face format, or a hub "
            "id `owner/name`"
        )
    if not (path / "config.json").is_file():
        raise ModelError(
            f"model: {model!r} holds no config.json; give the directory that `save_pretrained` wrote to"
        )


def resolve_model(model: str, cache: Path) -> Path | str:
    """The directory of the tiny model (made now if need be) or of a local one; a hub id as it is.

    Raises ModelError for a local path that does not hold a model.
    """
    check_model(model)
    if model == TINY:
        return ensure_tiny(cache)
    path = Path(model).expanduser()
    return model if _is_hub_id(model, path) else path.resolve()


def _is_hub_id(model: str, path: Path) -> bool:
    """`owner/name` that is no directory here. A bare name, a leading `.`, `/` or `~` and anything deeper
    means a path: a misspelt one must not be looked for on the hub.
    """
    parts = model.split("/")
    return len(parts) == 2 and all(parts) and model[0] not in ".~" and not path.exists()
