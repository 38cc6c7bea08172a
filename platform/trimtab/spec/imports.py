"""Import paths in a spec: the module must be found before anything starts. Nothing is imported."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from trainables.config import TrialConfig
from trimtab.errors import SpecError

IMPORT_PATH = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_]\w*")


def check_imports(config: TrialConfig, strategy_field: str) -> None:
    """Refuse strategies and tasks of the user's own whose module Python does not find. SpecError."""
    for path in _import_paths(config.strategy.model_dump(mode="json")):
        _check(path, strategy_field)
    for path in _import_paths(config.task.name):
        _check(path, "trial.task.name")


def _import_paths(value: Any) -> Iterator[str]:
    if isinstance(value, str) and IMPORT_PATH.fullmatch(value):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _import_paths(item)
    elif isinstance(value, list):
        for item in value:
            yield from _import_paths(item)


def _check(path: str, field: str) -> None:
    module = path.partition(":")[0]
    if not _found(module):
        raise SpecError(
            f"{field}: {path!r}: Python finds no module {module!r}; install the package, or put its "
            "directory on PYTHONPATH"
        )


@lru_cache(maxsize=256)
def _found(module: str) -> bool:
    """Parent packages are imported on the way, the module itself is not."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
