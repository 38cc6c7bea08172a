"""What a spec names by import path: imported at load, so that a sweep cannot start and then not find it."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.errors import SpecError

if TYPE_CHECKING:
    from trainables.config import TaskConfig, TrialConfig
    from trainables.strategies.config import StrategyConfig

IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
TASKS = ("addition", "math")
FILE_KINDS = (".jsonl", ".json", ".parquet")
HUB_DATA = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/[\w.-]+)?(:.+)?")


def check_imports(config: TrialConfig, strategy_field: str) -> None:
    """Refuse strategies and tasks of the user's own that cannot be imported or are of another kind, and tasks
    without their data. SpecError.
    """
    for axis, path in _import_paths(config.strategy):
        _check_member(path, axis, strategy_field)
    _check_task(config.task)


def _import_paths(strategy: StrategyConfig) -> Iterator[tuple[str, str]]:
    """(axis, import path) of what a strategy takes from the user; the axis of a whole one is `strategy`."""
    if strategy.custom is not None:
        yield "strategy", strategy.custom
        return
    for axis in ("prior", "fusion", "budget", "normaliser"):
        member = getattr(strategy, axis)
        if member.type == "custom":
            yield axis, member.path
    if strategy.warmup is not None:
        yield from _import_paths(strategy.warmup.strategy)


@lru_cache(maxsize=256)
def _check_member(path: str, axis: str, field: str) -> None:
    found = _imported(path, field)
    kind = _kind(axis)
    # What a factory makes is known only when it is called.
    if isinstance(found, type) and not issubclass(found, kind):
        raise SpecError(
            f"{field}: {path!r} is a class, but no {kind.__name__}; docs/strategies.md names the methods it "
            "needs"
        )


def _kind(axis: str) -> type:
    from trainables.strategies.budget.base import Budget
    from trainables.strategies.fusion.base import Fusion
    from trainables.strategies.normalisers import Normaliser
    from trainables.strategies.priors.base import Prior
    from trainables.strategies.protocol import Strategy

    kinds: dict[str, type] = {
        "strategy": Strategy,
        "prior": Prior,
        "fusion": Fusion,
        "budget": Budget,
        "normaliser": Normaliser,
    }
    return kinds[axis]


def _imported(path: str, field: str) -> Any:
    """The callable at `package.module:name`. SpecError names what Python said."""
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        own = f"{module_name}.".startswith(f"{missing}.")
        what = (
            f"Python finds no module {missing!r}" if own else f"it needs {missing!r}, which is not installed"
        )
        raise SpecError(
            f"{field}: {path!r}: {what}; install the package, or put its directory on PYTHONPATH"
        ) from None
    except Exception as error:  # noqa: BLE001 - the user's module may raise anything
        raise SpecError(
            f"{field}: {path!r}: importing {module_name!r} raised {type(error).__name__}: {error}; mend the "
            "module"
        ) from None
    found = getattr(module, name, None)
    if not callable(found):
        close = difflib.get_close_matches(name, dir(module), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "; check the spelling"
        raise SpecError(f"{field}: {path!r}: module {module_name!r} has no class {name!r}{hint}")
    return found


def _check_task(task: TaskConfig) -> None:
    if task.name == "math":
        _check_math(task)
    elif IMPORT_PATH.fullmatch(task.name):
        _check_own_task(task.name)
    elif task.name not in TASKS:
        close = difflib.get_close_matches(task.name, TASKS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise SpecError(
            f"trial.task.name: {task.name!r} is no task; {hint}use one of {', '.join(TASKS)}, or an import "
            "path package.module:Task"
        )


@lru_cache(maxsize=32)
def _check_own_task(path: str) -> None:
    found = _imported(path, "trial.task.name")
    if isinstance(found, type) and not hasattr(found, "split"):
        raise SpecError(
            f"trial.task.name: {path!r} is a class without `split`, so no task; see docs/tasks.md for what "
            "it needs"
        )


def _check_math(task: TaskConfig) -> None:
    if "{question}" not in task.template:
        raise SpecError(
            f"trial.task.template: {task.template!r} never mentions the question; put {{question}} in it"
        )
    for split in ("train", "validation"):
        if getattr(task, split) is None:
            raise SpecError(
                f"trial.task.{split}: is missing; the math task needs a {' or '.join(FILE_KINDS)} file, or a "
                "hub data set owner/name[/configuration][:split]"
            )
    for split in ("train", "validation", "test"):
        source: str | None = getattr(task, split)
        if source is not None:
            _check_source(f"trial.task.{split}", source)


def _check_source(field: str, source: str) -> None:
    path = Path(source)
    if path.is_file():
        if path.suffix not in FILE_KINDS:
            raise SpecError(
                f"{field}: {source!r} is of an unknown format; use one of {', '.join(FILE_KINDS)}"
            )
        return
    if path.suffix in FILE_KINDS or path.is_dir() or not HUB_DATA.fullmatch(source):
        raise SpecError(
            f"{field}: {source!r} is no file here; give the path of a {' or '.join(FILE_KINDS)} file, or a "
            "hub data set owner/name[/configuration][:split]"
        )
