"""From a task's configuration to the task."""

from __future__ import annotations

import pkgutil
import sys
from typing import TYPE_CHECKING

from trainables.errors import SpecError
from trainables.tasks.base import Task

if TYPE_CHECKING:
    from trainables.config import TaskConfig

BUILT_IN = {
    "addition": "trainables.tasks.addition:Addition",
    "sorting": "trainables.tasks.sorting:Sorting",
    "math": "trainables.tasks.math_qa:MathQA",
}


def load_task(config: TaskConfig) -> Task:
    """Return the task a configuration names: built in, or `package.module:Class` called with it and `params`.

    Raises:
        SpecError: the name leads nowhere, or to something that is not a task.
    """
    path = BUILT_IN.get(config.name, config.name)
    factory = import_object(path, field="task.name", known=tuple(BUILT_IN))
    task = factory(config, **config.params) if callable(factory) else factory
    if not isinstance(task, Task):
        raise SpecError(
            f"task.name: {config.name!r} gave a {type(task).__name__}, which lacks `judge` or `split`; "
            "see trainables.tasks.base.Task"
        )
    return task


def import_object(path: str, field: str, known: tuple[str, ...] = ()) -> object:
    """Return the object at `package.module:name`.

    Raises:
        SpecError: the path leads nowhere.
    """
    module, colon, name = path.partition(":")
    words = [*module.split("."), name]
    if not (colon and all(word.isidentifier() for word in words)):
        choices = f"use one of {', '.join(known)}, or" if known else "use"
        raise SpecError(f"{field}: {path!r} is unknown; {choices} an import path `package.module:name`")
    try:
        return pkgutil.resolve_name(path)
    except ModuleNotFoundError as error:
        raise SpecError(
            f"{field}: {path!r} cannot be imported ({error}); install the package or put its directory on "
            "PYTHONPATH"
        ) from error
    except AttributeError as error:
        # What the module itself raised while it was imported is not a misspelt name.
        if error.obj is not sys.modules.get(module):
            raise
        raise SpecError(f"{field}: module {module!r} has no {name!r}; check the spelling") from error
