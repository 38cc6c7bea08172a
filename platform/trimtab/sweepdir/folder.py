"""The folder of one sweep, or of one training run.

Layout::

    spec.yaml                the resolved spec (a training run has promoted.yaml instead)
    driver.json, driver.lock the process that drives it, see `driver`
    tracked.json             how much of its journal each tracking store holds
    tracking.json            its own id: a resumed sweep finds its MLflow runs by it
    study.journal            the Optuna studies, unless the spec names a database
    records/<trial>.jsonl    the event journal, see `journal`
    trials/<trial>/          checkpoints
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from trainables.strategies.wording import did_you_mean
from trimtab.errors import NotFoundError, SpecError
from trimtab.sweepdir import driver
from trimtab.sweepdir.atomic import read_mapping, write_whole
from trimtab.sweepdir.home import SWEEPS, TRAINING, command
from trimtab.sweepdir.journal import Event, Tail
from trimtab.sweepspec.load import load_spec
from trimtab.sweepspec.names import check_name
from trimtab.sweepspec.spec import SweepSpec

TRACKED = "tracked.json"
"""How much of the journal each tracking store holds (`trimtab.tracking.position`)."""
TRACKED_FIX = "remove it: everything is sent again, and the store keeps one of each"


@dataclass(frozen=True)
class SweepDir:
    """The folder of one sweep or training run, whether or not it exists."""

    path: Path

    @classmethod
    def of(cls, home: Path, name: str) -> SweepDir:
        """Return the folder of the sweep `name`.

        Raises:
            SpecError: `name` cannot be the name of a sweep.
        """
        return cls(home / SWEEPS / check_name(name))

    @classmethod
    def existing(cls, home: Path, name: str) -> SweepDir:
        """Return the folder of a sweep that was started.

        Raises:
            NotFoundError: there is none; the message names those that there are.
        """
        found = cls.of(home, name)
        if not found.path.is_dir():
            there = [other.name for other in cls.all(home)]
            raise NotFoundError(
                f"no sweep named {name!r} under {home / SWEEPS}; {did_you_mean(name, there)}sweeps there: "
                f"{', '.join(there) or 'none'}"
            )
        return found

    @classmethod
    def all(cls, home: Path) -> list[SweepDir]:
        """Return the folders of all sweeps of a home, by name."""
        parent = home / SWEEPS
        if not parent.is_dir():
            return []
        return [cls(path) for path in sorted(parent.iterdir()) if path.is_dir()]

    @classmethod
    def create(cls, home: Path, family: str, name: str | None = None) -> SweepDir:
        """Claim a new folder; its last part is the sweep's name.

        Without `name` the first free one of `family`, `family-2`, `family-3`, ... is taken. Making the folder
        is the claim, so that two sweeps started at once cannot share a name.

        Raises:
            SpecError: `name` is in use, or `home` cannot be written.
        """
        if name is not None:
            found = cls.of(home, name)
            if not found._claim():
                began = found.spec_file.exists() or found.has_run
                rest = command(f"resume {name}", home) if began else f"rm -r {found.path}"
                why = "go on with it" if began else "remove it, as nothing ever began in it"
                raise SpecError(
                    f"--name: {name!r} is in use ({found.path} exists); {why}: {rest}; or choose another "
                    f"name, or leave --name out for the next free one of the family {family!r}"
                )
            return found
        number = 1
        while True:
            found = cls(home / SWEEPS / (family if number == 1 else f"{family}-{number}"))
            if found._claim():
                return found
            number += 1

    @classmethod
    def training(cls, home: Path, name: str) -> SweepDir:
        """Make the folder of a training run unless it is there.

        Raises:
            SpecError: `home` cannot be written.
        """
        found = cls(home / TRAINING / check_name(name))
        found._claim()
        return found

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def home(self) -> Path:
        return self.path.parent.parent

    @property
    def spec_file(self) -> Path:
        return self.path / "spec.yaml"

    def spec(self) -> SweepSpec:
        """Read the sweep's spec; its model, data and classes may have moved since.

        Raises:
            NotFoundError: it is gone, or the sweep never began.
        """
        if not self.spec_file.is_file():
            raise self._without_spec()
        return load_spec(self.spec_file, outside=False)

    def write_spec(self, spec: SweepSpec) -> None:
        """Keep the spec, whole or not at all."""
        write_whole(self.spec_file, spec.text())

    def _without_spec(self) -> NotFoundError:
        if self.has_run:
            shown = command("ui", self.home)
            return NotFoundError(
                f"sweep {self.name!r} has run, but {self.spec_file} is gone. MLflow keeps a copy, the "
                f"artifact spec.yaml of the run {self.name!r} ({shown}): put it back there"
            )
        return NotFoundError(
            f"sweep {self.name!r} never began: {self.path} has no spec.yaml; remove it (rm -r "
            f"{self.path}) and start anew"
        )

    def without_studies(self, file: Path) -> NotFoundError:
        """Return the error for a sweep that has run and whose studies, `file`, are gone."""
        words = [f"{verb} {self.name}" for verb in ("status", "compare", "confirm")]
        again = ", ".join(command(word, self.home) for word in words)
        return NotFoundError(
            f"sweep {self.name!r} has run, but {file} is gone, without which its search cannot go on. "
            f"Restore it from a backup, or search anew under another --name. What ran is whole: {again}"
        )

    @property
    def has_run(self) -> bool:
        """Tell whether a trial of it was begun, by anything that one leaves behind."""
        return bool(self._recorded() | self._left_behind())

    def check_records(self) -> None:
        """Refuse a sweep that has lost records of its trials: it would look as if they had never run.

        Raises:
            NotFoundError: names what is gone, and what still holds it.
        """
        gone = sorted(self._left_behind() - self._recorded())
        if gone:
            what = self.path / "records"
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            raise NotFoundError(
                f"sweep {self.name!r} has run, but {what / gone[0]}.jsonl{more} is gone, without which "
                "nothing can be said of those trials, or go on. It cannot be made again: restore it from a "
                f"backup. MLflow has what was sent: {command(f'compare {self.name}', self.home)}"
            )

    def _recorded(self) -> set[str]:
        """Return the trials that have records."""
        return {file.stem for file in (self.path / "records").glob("trial-*.jsonl")}

    def _left_behind(self) -> set[str]:
        """Return the trials that must have records: they have checkpoints, or their records were tracked."""
        trials = {folder.name for folder in (self.path / "trials").glob("trial-*")}
        tracked = self.path / TRACKED
        if tracked.is_file():
            for marks in read_mapping(tracked, TRACKED_FIX).values():
                trials |= {run.partition("/")[0] for run in marks if run.startswith("trial-")}
        return trials

    @property
    def sweep_id(self) -> str | None:
        """The sweep's own id; None before anything of it was tracked.

        Raises:
            StorageError: the file that holds it is damaged.
        """
        file = self.path / "tracking.json"
        again = command(f"track {self.name}", self.home)
        fix = f"remove it, then send everything to MLflow again, under a new id: {again}"
        return str(read_mapping(file, fix).get("sweep_id")) if file.is_file() else None

    def claim_id(self) -> str:
        """Return the sweep's own id, a new one the first time."""
        if self.sweep_id is None:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / "tracking.json", json.dumps({"sweep_id": uuid.uuid4().hex}))
        return str(self.sweep_id)

    def events(self) -> Iterator[Event]:
        """Yield the events of all trials so far, in order within each trial."""
        return Tail(self.path).read()

    def driven(self) -> AbstractContextManager[None]:
        """Make this process the driver for the time of a block; errors as in `driver.registered`."""
        return driver.registered(self.path)

    def remove(self) -> None:
        """Remove the folder: its name is free again."""
        shutil.rmtree(self.path)

    def _claim(self) -> bool:
        """Make the folder; return False if it is there already."""
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            return False
        except OSError as error:
            training = self.path.parent.name == TRAINING
            fix = "--home /path" if training else "home: /path, or --set home=/path"
            raise SpecError(
                f"home: {str(self.home)!r} cannot be written ({error.strerror}: {error.filename}); give a "
                f"folder of yours: {fix}"
            ) from None
        return True
