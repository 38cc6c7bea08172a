"""Ending a sweep at the first failure that every trial would share."""

from __future__ import annotations

from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial

from trimtab.errors import SpecError, TrialFailed


class Halt(Callback, Stopper):
    """Stops all trials once one has failed by what the user wrote: the others would fail the same way."""

    def __init__(self) -> None:
        self._message: str | None = None

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error = trial.get_pickled_error()
        # Ray wraps what a trial raised.
        cause = getattr(error, "cause", error)
        if isinstance(cause, TrialFailed) and cause.cause == "user" and self._message is None:
            self._message = str(cause)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._message is not None

    def check(self) -> None:
        """SpecError with the message of the failure that ended the sweep, if one did."""
        if self._message is not None:
            raise SpecError(self._message)
