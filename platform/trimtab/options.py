"""Kinds of values that several commands take."""

from __future__ import annotations

import math
from typing import Any

import click


class Size(click.ParamType[float]):
    """A number above zero that is a number: neither `nan` nor `inf`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            self.fail(f"{value!r} is no size; give a number above 0.", param, ctx)
        return number
