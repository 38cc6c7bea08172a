"""Where a sweep keeps its files, and what its name is.

Layout::

    <home>/mlflow.db              default tracking store (SQLite)
    <home>/artifacts/             artifacts of the default tracking store
    <home>/sweeps/<name>/         one sweep: spec.yaml, driver.json, study.journal, records/<trial>.jsonl, ...
"""

from __future__ import annotations

import shlex
from pathlib import Path

from trimtab.errors import NotFoundError, SpecError
from trimtab.sweepspec.names import check_name

DEFAULT = Path(".trimtab")


def sweep_dir(home: Path, name: str) -> Path:
    """Folder of one sweep, whether or not it exists."""
    return home / "sweeps" / name


def existing_sweep_dir(home: Path, name: str) -> Path:
    """Folder of a sweep that was started; NotFoundError names the sweeps that were."""
    folder = sweep_dir(home, check_name(name))
    if not folder.is_dir():
        parent = home / "sweeps"
        known = sorted(path.name for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []
        there = ", ".join(known) if known else "none"
        raise NotFoundError(f"no sweep named {name!r} under {parent}; sweeps there: {there}")
    return folder


def create_sweep_dir(home: Path, family: str, name: str | None = None) -> Path:
    """Claim a new sweep folder; its last part is the sweep's name.

    Without `name` the first free one of `family`, `family-2`, `family-3`, ... is taken. Making the folder is
    the claim, so that two sweeps started at once cannot share a name. SpecError: `name` is in use, or
    `home` cannot be written.
    """
    if name is not None:
        folder = sweep_dir(home, check_name(name))
        if not _claim(home, folder):
            raise SpecError(
                f"--name: {name!r} is in use ({folder} exists); choose another name, or leave --name out "
                f"for the next free one of the family {family!r}"
            )
        return folder
    number = 1
    while True:
        folder = sweep_dir(home, family if number == 1 else f"{family}-{number}")
        if _claim(home, folder):
            return folder
        number += 1


def _claim(home: Path, folder: Path) -> bool:
    """Make the folder; False if it is there already. SpecError: `home` cannot be written."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise SpecError(
            f"home: {str(home)!r} cannot be written ({error.strerror}: {error.filename}); give a folder of "
            "yours: home: /path, or --set home=/path"
        ) from None
    return True


def command(words: str, home: Path) -> str:
    """`trimtab WORDS` as it must be typed: with `--home` where the sweep's home is not the default."""
    if home.expanduser().resolve() == DEFAULT.resolve():
        return f"trimtab {words}"
    return f"trimtab {words} --home {shlex.quote(str(home))}"


def tracking_uri(home: Path, uri: str | None) -> str:
    """The tracking store: `uri`, or SQLite under `home`."""
    return uri or f"sqlite:///{(home / 'mlflow.db').resolve()}"
