"""Runs the sweeps behind the results page, each from where it stands."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import NotFoundError
from trimtab.sweepdir.home import DEFAULT
from trimtab.watch.status import read_status

SPECS = Path(__file__).parent
HOME = DEFAULT.resolve()


@dataclass(frozen=True)
class Source:
    """One sweep of the page."""

    name: str
    """Of its file here; the sweep itself is `results-<name>`."""
    confirmed: bool = True
    """False: nothing is chosen in it, so nothing is confirmed."""

    @property
    def sweep(self) -> str:
        return f"results-{self.name}"

    @property
    def judged(self) -> str:
        """Name of the sweep whose runs the page shows."""
        return f"{self.sweep}-confirm" if self.confirmed else self.sweep


SOURCES = (
    Source("addition"),
    Source("goal"),
    Source("sorting"),
    Source("oracle"),
    Source("sensitivity", confirmed=False),
    Source("importance", confirmed=False),
)


def state(sweep: str) -> str:
    """Return `finished`, `running`, `interrupted` or `missing`."""
    try:
        return read_status(HOME, sweep).status
    except NotFoundError:
        return "missing"


def bring_to_its_end(source: Source) -> None:
    """Run a sweep and its confirmation, or what is left of them.

    Raises:
        SystemExit: a command failed or was interrupted. The same call goes on from there.
    """
    confirm = ["--confirm"] if source.confirmed else []
    _bring(source.sweep, ["sweep", str(SPECS / f"{source.name}.yaml"), "--name", source.sweep, *confirm])
    if source.confirmed:
        _bring(source.judged, ["confirm", source.sweep, "--name", source.judged])


def _bring(sweep: str, start: list[str]) -> None:
    found = state(sweep)
    if found == "running":
        raise SystemExit(f"{sweep} is under way in another process; wait for it: trimtab status {sweep}")
    if found == "finished":
        return
    command = start if found == "missing" else ["resume", sweep]
    done = subprocess.run([sys.executable, "-m", "trimtab", *command], check=False)
    if done.returncode or state(sweep) != "finished":
        raise SystemExit(f"{sweep} has not finished; the same command goes on from here")
