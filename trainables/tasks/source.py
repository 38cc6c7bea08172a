"""Where the math task's problems come from: a local file, a slice of one, or a data set of the hub.

Loads nothing: the check of a spec reads sources with it before a sweep.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.errors import SpecError

READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
"""Reader of the data-set library for each kind of file."""
SLICED = re.compile(r"(?P<path>.+\.(?:jsonl|json|parquet))\[(?P<rows>[^\[\]]*)\]")
BOUNDS = re.compile(r"\s*(?P<first>-?\d+%?)?\s*:\s*(?P<last>-?\d+%?)?\s*")


@dataclass(frozen=True)
class LocalFile:
    """A file, and which of its rows are meant."""

    path: Path
    rows: str | None = None
    """What stands between the brackets of `train.jsonl[:512]`; None for all rows."""

    @property
    def reader(self) -> str | None:
        """Return the library's reader; None if the kind of file is unknown."""
        return READERS.get(self.path.suffix)

    def cut(self, field: str, columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """Return the rows that are meant, in file order.

        Raises:
            SpecError: The slice cannot be read, or no row is left; names `field`.
        """
        total = len(next(iter(columns.values()), []))
        rows = range(total)[self._slice(field, total)]
        if not rows:
            holds = (
                f"selects none of its {total:,} rows" if self.rows is not None and total else "holds no rows"
            )
            raise SpecError(f"{field}: {self.written!r} {holds}; name a file or a slice that holds problems")
        return {name: values[rows.start : rows.stop] for name, values in columns.items()}

    @property
    def written(self) -> str:
        """Return the source as a spec writes it."""
        return str(self.path) if self.rows is None else f"{self.path}[{self.rows}]"

    def _slice(self, field: str, total: int) -> slice:
        if self.rows is None:
            return slice(None)
        found = BOUNDS.fullmatch(self.rows)
        if found is None:
            raise SpecError(
                f"{field}: {self.written!r}: {self.rows!r} is no slice; write [from:to] in rows or per cent, "
                "such as [:512], [512:] or [10%:20%]"
            )
        return slice(_row(found["first"], total), _row(found["last"], total))


def _row(bound: str | None, total: int) -> int | None:
    """Return the row that a bound stands for; per cents round as in the data-set library."""
    if bound is None:
        return None
    return round(int(bound[:-1]) * total / 100) if bound.endswith("%") else int(bound)


def local_file(source: str) -> LocalFile:
    """Return the file that a source names if it is one; a file of that very name goes before a slice."""
    sliced = SLICED.fullmatch(source)
    if sliced is None or Path(source).is_file():
        return LocalFile(Path(source))
    return LocalFile(Path(sliced["path"]), sliced["rows"])
