"""Base of the presets."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from trainables.strategies.members.base import Frozen

Axes = dict[str, Any]


class Preset(Frozen):
    """The fields are the preset's parameters, `axes` the point they stand for."""

    @abstractmethod
    def axes(self) -> Axes:
        """Return axis -> member. What is left out has its default (no prior, Monte Carlo, no normaliser)."""
