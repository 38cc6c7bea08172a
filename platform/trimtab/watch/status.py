"""The state of a sweep and of its trials, read from its journal alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trimtab.sweepdir import driver
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepdir.home import command
from trimtab.sweepdir.journal import Event
from trimtab.sweepspec.spec import SweepSpec
from trimtab.watch.progress import SweepProgress

if TYPE_CHECKING:
    from rich.console import RenderableType

ENDED = ("finished", "failed", "stopped")
"""Final states of a trial. A killed trial is not final: `trimtab resume` continues it."""


@dataclass(frozen=True)
class TrialStatus:
    """The state of one configuration."""

    trial: str
    number: int
    label: str
    role: str
    status: str
    """`finished`, `failed`, `stopped` (by the scheduler), `running`, `interrupted` (can be resumed) or
    `waiting` (the sweep is being resumed)."""
    stage: str
    seeds_finished: int
    seeds: int
    rollouts: int
    """Training rollouts spent over all seeds."""
    warmup: float
    """Share of its updates so far in which its learned prior did not act yet; 1: it never did."""
    accuracy: float | None
    """Last validation accuracy."""
    score: float | None
    """The objective, once the trial has ended."""
    cause: str | None
    """Kind of failure: `out_of_memory`, `lost`, `diverged`, `verifier`, `user` or `bug`."""
    error: str | None


@dataclass(frozen=True)
class SweepStatus:
    """The state of a whole sweep."""

    name: str
    home: str
    """Folder that holds the sweep's folder."""
    status: Literal["running", "finished", "interrupted"]
    driver: int | None
    """Process id of the driver on this machine; None if no driver runs."""
    trials_planned: int
    rollouts_planned: int
    trials: tuple[TrialStatus, ...]


def read_status(home: Path, name: str) -> SweepStatus:
    """Read the state of a sweep.

    Raises:
        NotFoundError: `home` has no sweep `name`, that sweep never began, or its spec or records are gone.
    """
    folder = SweepDir.existing(home, name)
    spec = folder.spec()
    folder.check_records()
    return _status(folder, spec, driver.running(folder.path))


def _status(folder: SweepDir, spec: SweepSpec, pid: int | None) -> SweepStatus:
    events = list(folder.events())
    progress = SweepProgress(spec, spec.trials)
    progress.feed(events)
    trials = tuple(
        sorted(
            (_trial(key, events, progress, running=pid is not None) for key in progress.trials),
            key=lambda trial: trial.number,
        )
    )
    ended = len(trials) >= spec.trials and all(trial.status in ENDED for trial in trials)
    status: Literal["running", "finished", "interrupted"] = "finished" if ended else "interrupted"
    if pid is not None:
        status = "running"
    return SweepStatus(folder.name, str(folder.home), status, pid, spec.trials, progress.total, trials)


def _trial(key: str, events: list[Event], progress: SweepProgress, *, running: bool) -> TrialStatus:
    shown = progress.trials[key]
    own = [event for event in events if event["trial"] == key]
    last_start = max(i for i, event in enumerate(own) if event["event"] == "trial_started")
    end = next((event for event in own[last_start:] if event["event"] == "trial_finished"), None)
    status = str(end["status"]) if end else "running"
    if status == "killed" or (status == "running" and not running):
        # A driver that has resumed the sweep has not come to this trial yet.
        status = "waiting" if running else "interrupted"
    finished = {e["seed"] for e in own if e["event"] == "run_finished" and e["status"] == "finished"}
    failed = [e for e in own if e["event"] in ("run_finished", "trial_finished") and e["status"] == "failed"]
    return TrialStatus(
        trial=key,
        number=shown.number,
        label=shown.label.partition(" ")[2],
        role=shown.role,
        status=status,
        stage=shown.stage if status == "running" else "",
        seeds_finished=len(finished),
        seeds=len(shown.seeds),
        rollouts=shown.rollouts,
        warmup=shown.warmed,
        accuracy=shown.accuracy,
        score=end.get("score") if end else None,
        cause=next((str(e["cause"]) for e in reversed(failed) if e.get("cause")), None),
        error=next((str(e["error"]) for e in reversed(failed) if e.get("error")), None),
    )


def render(found: SweepStatus) -> RenderableType:
    """Return a table with one row per trial, and a line with the sweep's progress and the next command."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("trial", "configuration", "status", "seeds", "rollouts", "last accuracy", "score", "cause"):
        right = title in ("seeds", "rollouts", "last accuracy", "score")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for trial in found.trials:
        table.add_row(
            trial.trial,
            f"{trial.label} ({trial.warmup:.0%} warm-up)" if trial.warmup else trial.label,
            f"{trial.status} ({trial.stage})" if trial.stage else trial.status,
            f"{trial.seeds_finished}/{trial.seeds}",
            f"{trial.rollouts:,}",
            "" if trial.accuracy is None else f"{trial.accuracy:.3f}",
            "" if trial.score is None else f"{trial.score:.4f}",
            ": ".join(part for part in (trial.cause, _first_line(trial.error)) if part),
        )
    return Group(table, Text(_summary(found)))


def _summary(found: SweepStatus) -> str:
    ended = sum(trial.status in ENDED for trial in found.trials)
    spent = sum(trial.rollouts for trial in found.trials)
    home = Path(found.home)
    state = {
        "running": f"running (process {found.driver}; end it: {command(f'stop {found.name}', home)})",
        "finished": f"finished; compare: {command(f'compare {found.name}', home)}",
        "interrupted": f"interrupted; resume it: {command(f'resume {found.name}', home)}",
    }[found.status]
    return (
        f"{found.name}: {ended} of {found.trials_planned} configurations ended · "
        f"{spent:,} of {found.rollouts_planned:,} rollouts · {state}"
    )


def _first_line(text: str | None) -> str | None:
    return text.splitlines()[0] if text else None
