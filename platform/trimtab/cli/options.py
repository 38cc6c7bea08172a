"""Options that several commands share, and kinds of values that they take."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from trimtab.sweepdir.home import DEFAULT, resolved


class Home(click.Path):
    """A folder, there or not, as an absolute path."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        home = resolved(value)
        super().convert(home, param, ctx)
        return home


HOME = click.option(
    "--home",
    type=Home(),
    default=DEFAULT,
    show_default=True,
    help="Folder that holds the sweeps (the spec's `home`).",
)


class Size(click.ParamType[float]):
    """A finite number above zero."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            self.fail(f"{value!r} is not a size; give a number above 0.", param, ctx)
        return number


def set_option(what: str, example: str) -> Callable[[Any], Any]:
    """Return the option `--set`, which collects overrides of `what` (a spec, a file)."""
    text = f"Override a value of the {what}, such as {example}; may be repeated."
    return click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=text)
