"""End a sweep at the first failure that every other trial would repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial

from trimtab.errors import SpecError
from trimtab.sweepdir import journal


class Halt(Callback, Stopper):
    """Stops all trials once one has failed with cause `user`: the others would fail the same way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._message: str | None = None

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Keep the message of the first failure whose cause is `user`."""
        # Read from the journal: when Ray 2.60 calls this, `trial` does not give its error yet.
        ends = [e for e in journal.read(self._folder, trial.config["key"]) if e["event"] == "trial_finished"]
        if ends and ends[-1].get("cause") == "user" and self._message is None:
            self._message = str(ends[-1].get("error"))

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: this never stops a single trial."""
        return False

    def stop_all(self) -> bool:
        """Tell Tune whether to stop all trials."""
        return self._message is not None

    def check(self) -> None:
        """Raise the failure that ended the sweep, if one did.

        Raises:
            SpecError: A trial failed with cause `user`; the message is that trial's.
        """
        if self._message is not None:
            raise SpecError(self._message)
