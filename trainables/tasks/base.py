"""What a task is: three disjoint splits of problems, and the name of the function that judges an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

from trainables.errors import SpecError

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Problem:
    """One prompt and what its answer must be."""

    prompt: str
    """Prompt text, template applied; the model continues it."""
    answer: str
    """Reference answer, in the form the task's judge expects."""
    stratum: int = 0
    """Declared stratum, from 0; all are 0 if the task declares none."""


@runtime_checkable
class Task(Protocol):
    """Prompts, and the rule that judges an answer. Implementations import nothing heavy at module level."""

    @property
    def judge(self) -> str:
        """Import path `package.module:function` of `(response: str, answer: str) -> float` in [0, 1].

        It is a name and not a function because the verifier's processes import it themselves.
        """
        ...

    def split(self, name: Split) -> Sequence[Problem]:
        """Return the problems of one split, always in the same order.

        Raises:
            SpecError: The split is not defined.
        """
        ...


def check_split(name: str) -> None:
    """Refuse a name that is not one of the three splits.

    Raises:
        SpecError: It is not.
    """
    if name not in get_args(Split):
        raise SpecError(f"split: {name!r} is unknown; use one of {', '.join(get_args(Split))}")
