"""Base of the built-in tasks, whose problems are made and not read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainables.tasks.base import Problem, Split, check_split

if TYPE_CHECKING:
    from trainables.config import TaskConfig


class Made(ABC):
    """Problems of the configured number and seed. Subclasses have a `judge` and draw."""

    def __init__(self, config: TaskConfig) -> None:
        self._seed = config.data_seed
        self._sizes: dict[str, int] = {
            "train": config.train_prompts,
            "validation": config.validation_prompts,
            "test": config.test_prompts,
        }

    def split(self, name: Split) -> Sequence[Problem]:
        """Return the split's problems in an order drawn from `data_seed`.

        Raises:
            SpecError: there is no such split, or the task makes fewer problems than are asked for.
        """
        check_split(name)
        return self.draw(name, self._sizes[name], self._seed)

    @abstractmethod
    def draw(self, name: Split, size: int, seed: int) -> Sequence[Problem]:
        """Draw `size` problems of one split."""
