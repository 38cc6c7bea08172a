"""Options that several commands share, and kinds of values that they take."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

HOME = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".trimtab"),
    show_default=True,
    help="Folder that holds the sweeps (the spec's `home`).",
)


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
