"""What a spec refers to outside itself: the model, the task with its data, classes of the user's own.

Checked before a sweep starts. The spec of a past sweep (`load_spec(..., outside=False)`) is read without the
check, because these may have moved since.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

from trainables.models.reference import check_reference
from trainables.models.resolve import check_model
from trainables.strategies.wording import did_you_mean
from trainables.tasks.source import READERS, local_file
from trimtab.errors import SpecError
from trimtab.sweepspec.imports import IMPORT_PATH, check_own_strategies, imported

if TYPE_CHECKING:
    from trainables.config import TaskConfig
    from trimtab.sweepspec.spec import SweepSpec

TASKS = ("addition", "sorting", "math")
FILE_KINDS = tuple(READERS)
HUB_DATA = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/[\w.-]+)?(:.+)?")


def check_outside(spec: SweepSpec) -> None:
    """Refuse a spec that names something that is not there, or is not what it must be.

    Raises:
        SpecError: the task, its data, or a class.
        ModelError: the model, or the reference of the loss.
    """
    check_model(spec.trial.model)
    check_reference(spec.fullest_loss().kl, spec.trial.model)
    check_task(spec.trial.task)
    check_own_strategies(spec, spec.reference, "reference")
    for number, candidate in enumerate(spec.candidates):
        check_own_strategies(spec, candidate, f"candidates.{number}")


def check_task(task: TaskConfig) -> None:
    """Refuse a task that does not exist, a class that is not a task, and a task without its data.

    Raises:
        SpecError: with the field under `trial.task`.
    """
    if task.name == "math":
        _check_math(task)
    elif IMPORT_PATH.fullmatch(task.name):
        _check_own_task(task)
    elif task.name not in TASKS:
        raise SpecError(
            f"trial.task.name: {task.name!r} is not a task; {did_you_mean(task.name, TASKS)}use one of "
            f"{', '.join(TASKS)}, or an import path package.module:Task"
        )


def _check_own_task(task: TaskConfig) -> None:
    found = imported(task.name, "trial.task.name")
    if isinstance(found, type) and not hasattr(found, "split"):
        raise SpecError(
            f"trial.task.name: {task.name!r} is a class without `split`, which a task needs; see "
            "docs/tasks.md"
        )
    try:
        signature = inspect.signature(found)
    except ValueError:
        return  # written in C: it does not say
    try:
        signature.bind(task, **task.params)
    except TypeError as error:
        raise SpecError(
            f"trial.task.params: {task.name!r} cannot be built as Task(config, **params) with "
            f"{task.params!r}: {error}; its parameters are {signature}"
        ) from None


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


def has_test_split(task: TaskConfig) -> bool:
    """Tell whether a task has prompts for the verdict; a class of the user's own may have some."""
    return task.name != "math" or task.test is not None


def _check_source(field: str, source: str) -> None:
    path = local_file(source).path
    if path.is_file():
        if path.suffix not in FILE_KINDS:
            raise SpecError(
                f"{field}: {source!r} is of an unknown format; use one of {', '.join(FILE_KINDS)}"
            )
        return
    if path.suffix in FILE_KINDS or path.is_dir() or not HUB_DATA.fullmatch(source):
        raise SpecError(
            f"{field}: {source!r} is not a file here; give the path of a {' or '.join(FILE_KINDS)} file, or "
            "a hub data set owner/name[/configuration][:split]"
        )
