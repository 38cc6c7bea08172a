"""A report must not cost more when many trials have ended. Operations are counted, not seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ray.tune.experiment import Trial

from trimtab.search.scheduler import StudyScheduler
from trimtab.sweepdir import journal
from trimtab.sweepdir.folder import TRACKED
from trimtab.tracking import position
from trimtab.tracking.operations import CloseRun
from trimtab.tracking.position import Position

ENDED = 200


class Watched(Trial):
    """A trial that counts how often its status is read."""

    looks = 0

    def __getattribute__(self, name: str) -> Any:
        if name == "status":
            Watched.looks += 1
        return super().__getattribute__(name)


@pytest.fixture
def trials() -> list[Watched]:
    Watched.looks = 0
    return [Watched(f"trial-{n}", stub=True) for n in range(ENDED + 2)]


def test_the_next_trial_is_the_one_that_waits_longest(trials) -> None:
    scheduler = StudyScheduler(None)  # type: ignore[arg-type]
    assert scheduler.choose_trial_to_run(None) is None
    first, second, third = trials[:3]
    for trial in (first, second):
        scheduler.on_trial_add(None, trial)
    assert scheduler.choose_trial_to_run(None) is first
    assert scheduler.choose_trial_to_run(None) is first, "asking starts nothing"
    first.set_status(Trial.RUNNING)
    assert scheduler.choose_trial_to_run(None) is second
    scheduler.on_trial_add(None, third)
    second.set_status(Trial.ERROR)
    assert scheduler.choose_trial_to_run(None) is third
    third.set_status(Trial.RUNNING)
    assert scheduler.choose_trial_to_run(None) is None
    # Tune puts a trial back like this when its actor died.
    first.set_status(Trial.PENDING)
    scheduler.on_trial_add(None, first)
    assert scheduler.choose_trial_to_run(None) is first


def test_choosing_a_trial_does_not_look_at_those_that_ended(trials) -> None:
    scheduler = StudyScheduler(None)  # type: ignore[arg-type]
    for trial in trials[:ENDED]:
        scheduler.on_trial_add(None, trial)
        scheduler.choose_trial_to_run(None)
        trial.set_status(Trial.TERMINATED)
    scheduler.on_trial_add(None, trials[ENDED])
    scheduler.choose_trial_to_run(None)
    before = Watched.looks
    # Without a controller, the scheduler cannot reach the ended trials.
    assert scheduler.choose_trial_to_run(None) is trials[ENDED]
    assert Watched.looks - before <= 2


def test_a_look_at_the_journal_opens_only_what_has_grown(tmp_path, monkeypatch) -> None:
    for n in range(ENDED):
        journal.append(tmp_path, {"event": "trial_started", "trial": f"t{n}", "time": 0.0})
    tail = journal.Tail(tmp_path)
    assert len(list(tail.read())) == ENDED
    journal.append(tmp_path, {"event": "trial_finished", "trial": "t7", "time": 1.0, "status": "failed"})
    opened: list[str] = []
    original = Path.open

    def counted(self: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(self.name)
        return original(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", counted)
    assert [event["event"] for event in tail.read()] == ["trial_finished"]
    assert list(tail.read()) == []
    assert opened == ["t7.jsonl"]


def test_the_mark_of_all_trials_is_not_written_at_every_operation(tmp_path, monkeypatch) -> None:
    now = 0.0
    monkeypatch.setattr(position.time, "monotonic", lambda: now)
    mark = Position(tmp_path, "sqlite:///x")
    file = tmp_path / TRACKED

    def send(n: int) -> None:
        mark.advance(CloseRun((f"t{n}", 0), "finished", 0, {}, None, at=100))

    def held() -> int:
        return len(next(iter(json.loads(file.read_text()).values())))

    for n in range(ENDED):
        send(n)
    assert not file.exists()
    now += position.WRITE_S
    send(ENDED)
    assert held() == ENDED + 1, "a long backlog is not marked at its end alone"
    send(ENDED + 1)
    mark.save()
    assert held() == ENDED + 2
    file.unlink()
    mark.save()
    assert not file.exists(), "nothing has moved"
