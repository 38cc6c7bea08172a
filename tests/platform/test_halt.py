"""A failure that every trial would repeat ends the sweep with its message; any other ends only its trial."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from trimtab.errors import SpecError
from trimtab.search.halt import Halt
from trimtab.sweepdir import journal


def after_failure(folder: Path, cause: str | None) -> Halt:
    """Do what Tune does when a trial of this journal has failed."""
    end = {"event": "trial_finished", "trial": "trial-0003", "status": "failed", "time": 1.0}
    journal.append(folder, {**end, "error": "learner.lr: is wrong", "cause": cause})
    halt = Halt(folder)
    halt.on_trial_error(0, [], SimpleNamespace(config={"key": "trial-0003"}))  # type: ignore[arg-type]
    return halt


def test_a_user_error_stops_all_trials_with_its_message(tmp_path: Path) -> None:
    halt = after_failure(tmp_path, "user")
    assert halt.stop_all()
    with pytest.raises(SpecError, match=r"^learner.lr: is wrong$"):
        halt.check()


@pytest.mark.parametrize("cause", ["bug", "diverged", "lost", None])
def test_other_failures_end_their_trial_alone(cause: str | None, tmp_path: Path) -> None:
    halt = after_failure(tmp_path, cause)
    assert not halt.stop_all()
    halt.check()


def test_a_trial_whose_client_died_has_no_end_yet(tmp_path: Path) -> None:
    journal.append(tmp_path, {"event": "trial_started", "trial": "t", "seeds": [0], "time": 1.0})
    halt = Halt(tmp_path)
    halt.on_trial_error(0, [], SimpleNamespace(config={"key": "t"}))  # type: ignore[arg-type]
    assert not halt.stop_all()
