"""The home: the folder that holds everything that sweeps and training runs leave behind.

Layout::

    <home>/mlflow.db              default tracking store (SQLite)
    <home>/artifacts/             artifacts of the default tracking store
    <home>/sweeps/<name>/         one sweep, see `folder`
    <home>/training/<name>/       one training run, the same
"""

from __future__ import annotations

import shlex
from pathlib import Path

DEFAULT = Path(".trimtab")
SWEEPS, TRAINING = "sweeps", "training"
"""Its folders."""


def resolved(home: str | Path) -> Path:
    """Return the home as an absolute path. Called once, where a home enters: the CLI's option, the API."""
    return Path(home).expanduser().resolve()


def command(words: str, home: Path) -> str:
    """Return `trimtab WORDS` as it must be typed: with `--home` where the home is not the default."""
    if resolved(home) == DEFAULT.resolve():
        return f"trimtab {words}"
    return f"trimtab {words} --home {shlex.quote(str(home))}"


def tracking_uri(home: Path, uri: str | None) -> str:
    """Return the tracking store: `uri`, or SQLite under `home`."""
    return uri or f"sqlite:///{(home / 'mlflow.db').resolve()}"
