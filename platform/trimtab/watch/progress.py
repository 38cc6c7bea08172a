"""Live progress of a sweep, read from its journal: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.strategies.warmup import WarmUpPlan
from trimtab.sweepdir.curves import ReferenceCurve
from trimtab.sweepdir.journal import Event, Tail
from trimtab.sweepspec.spec import Work
from trimtab.watch.eta import Clock

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

POLL_S = 0.5
SILENT_S = 4.0
"""Longest silence of the plain output until the first result."""
AROUND = 5
"""Lines of the live table that do not show a trial."""


@dataclass
class TrialProgress:
    """The progress of one configuration."""

    number: int
    label: str
    role: str
    seeds: list[int]
    stage: str = "waiting"
    seed: int | None = None
    """Seed of the latest event. Two seeds may run at the same time."""
    evaluated: dict[int, tuple[int, float]] = field(default_factory=dict)
    """Seed -> rollouts and accuracy of its last evaluation."""
    spent: dict[int, int] = field(default_factory=dict)
    """Seed -> training rollouts spent."""
    updates: dict[int, int] = field(default_factory=dict)
    """Seed -> updates."""
    done: set[int] = field(default_factory=set)
    """Seeds that have finished."""
    warmup: WarmUpPlan | None = None
    ended: bool = False

    @property
    def rollouts(self) -> int:
        """Return the training rollouts spent over all seeds."""
        return sum(self.spent.values())

    @property
    def warmed(self) -> float:
        """Return the share of its updates so far in which its learned prior did not act yet."""
        return self.warmup.share(self.updates.values()) if self.warmup else 0.0

    @property
    def shown(self) -> str:
        """Return its label, with the share that was warm-up."""
        return f"{self.label} ({self.warmed:.0%} warm-up)" if self.warmed else self.label

    @property
    def accuracy(self) -> float | None:
        """Return the last accuracy of `seed`, or None before its first evaluation."""
        return self.evaluated[self.seed][1] if self.seed in self.evaluated else None

    @property
    def position(self) -> int:
        """Return the position of `seed` among the seeds, from 1; 0 before the first seed."""
        return self.seeds.index(self.seed) + 1 if self.seed in self.seeds else 0


class SweepProgress:
    """The state of a sweep by its journal so far. Pure: events in, state and text out."""

    def __init__(self, spec: Work, total_trials: int) -> None:
        self.reference = spec.reference_label
        self.run_budget = spec.budget
        self.trial_budget = spec.budget * len(spec.seeds)
        self.total = self.trial_budget * total_trials
        self.total_trials = total_trials
        self.trials: dict[str, TrialProgress] = {}
        self._reference = ReferenceCurve()
        self._clock = Clock()
        self._running = False

    @property
    def rollouts(self) -> int:
        """Return the training rollouts spent over all trials."""
        return sum(trial.rollouts for trial in self.trials.values())

    @property
    def ended(self) -> int:
        """Return the number of trials that have ended."""
        return sum(trial.ended for trial in self.trials.values())

    @property
    def running(self) -> bool:
        """Tell whether this driver has a first result."""
        return self._running

    def stages(self) -> str:
        """Return what the trials under way are doing, each thing once: `waiting, resetting`.

        Empty while all of them wait for a slot: what the slots are doing tells more.
        """
        stages = dict.fromkeys(trial.stage for trial in self.trials.values() if not trial.ended)
        return "" if set(stages) <= {"waiting"} else ", ".join(stages)

    def feed(self, events: Iterable[Event]) -> list[str]:
        """Process events and return the lines of plain output that they cause."""
        return [line for event in events if (line := self._event(event)) is not None]

    def take_over(self, events: Iterable[Event]) -> None:
        """Process the events of drivers that have ended: what they left open waits to be resumed."""
        self.feed(events)
        self._running = False
        self._clock.forget_under_way()
        for trial in self.trials.values():
            if not trial.ended:
                trial.stage = "waiting"

    def eta_s(self) -> float | None:
        """Estimate the seconds to the end at the pace so far, start-up left out; None until one is known."""
        if self.ended == self.total_trials:
            return 0.0
        to_do = {
            (key, seed): self.run_budget - trial.spent.get(seed, 0)
            for key, trial in self.trials.items()
            for seed in trial.seeds
            if not trial.ended and seed not in trial.done
        }
        begun = {run: left for run, left in to_do.items() if run in self._clock.runs and left > 0}
        queued = max(0, self.total_trials - len(self.trials)) * (self.trial_budget // self.run_budget)
        waiting = sum(run not in self._clock.runs for run in to_do)
        return self._clock.left_s(begun, queued + waiting, self.run_budget)

    def minus_reference(self, trial: TrialProgress) -> float | None:
        """Return the last accuracy of `trial.seed` minus the reference's at the same number of rollouts.

        Return None for the reference, before the first evaluation, and where the reference has no value yet.
        """
        return None if trial.seed is None else self._minus(trial, trial.seed)

    def mean_minus_reference(self, trial: TrialProgress) -> tuple[float, int] | None:
        """Return the mean of that difference over seeds, each at its own last evaluation, and their number.

        None while fewer than two seeds have one.
        """
        found = [minus for seed in trial.evaluated if (minus := self._minus(trial, seed)) is not None]
        return (sum(found) / len(found), len(found)) if len(found) > 1 else None

    def _minus(self, trial: TrialProgress, seed: int) -> float | None:
        if seed not in trial.evaluated or trial.role == "reference":
            return None
        rollouts, accuracy = trial.evaluated[seed]
        level = self._reference.at(rollouts)
        return None if level is None else accuracy - level

    def _event(self, event: Event) -> str | None:
        kind = event["event"]
        if kind == "trial_started":
            return self._started(event)
        trial = self.trials.get(event["trial"])
        if trial is None:
            return None
        self._clock.take(event)
        seed = event.get("seed")
        if seed is not None:
            trial.seed = seed
        if kind == "stage":
            trial.stage = event["stage"]
        elif kind == "step" and seed is not None:
            trial.spent[seed], trial.updates[seed] = event["rollouts"], event["step"]
        elif kind == "evaluation" and seed is not None:
            return self._evaluated(trial, seed, event)
        elif kind == "run_finished" and seed is not None and event["status"] == "finished":
            trial.done.add(seed)
            if trial.role == "reference":
                self._reference.end(seed)
        elif kind == "run_finished" and event["status"] != "finished":
            return f"{trial.label} seed {seed}: {event['status']}{_because(event)}"
        elif kind == "trial_finished":
            # A killed trial is open: a resumed sweep goes on with it.
            trial.ended, trial.stage = event["status"] != "killed", event["status"]
            never = f": {trial.warmup.never}" if trial.warmup and trial.warmed == 1 else ""
            ended = f"{event['status']}{_because(event)}{never}"
            return f"{trial.label}: {ended} ({self.ended} of {self.total_trials})"
        return None

    def _started(self, event: Event) -> str | None:
        known = event["trial"] in self.trials
        if known:
            self.trials[event["trial"]].ended = False
        label = f"{event.get('number', 0)} {event.get('label', event['trial'])}"
        if not known:
            self.trials[event["trial"]] = TrialProgress(
                event.get("number", 0), label, event.get("role", "candidate"), list(event.get("seeds", []))
            )
            strategy = event.get("config", {}).get("strategy", {})
            self.trials[event["trial"]].warmup = WarmUpPlan.of(strategy)
        return f"{label}: {'resumed' if known else 'started'}"

    def _evaluated(self, trial: TrialProgress, seed: int, event: Event) -> str | None:
        trial.spent[seed] = event["rollouts"]
        accuracy = event["metrics"].get("accuracy")
        if accuracy is None:
            return None
        trial.evaluated[seed] = event["rollouts"], accuracy
        self._running = True
        if trial.role == "reference":
            self._reference.add(seed, event["rollouts"], accuracy)
        minus = self.minus_reference(trial)
        mean = self.mean_minus_reference(trial)
        over = f"; mean of {mean[1]} seeds {mean[0]:+.3f}" if mean else ""
        against = f" ({minus:+.3f} to {self.reference}{over})" if minus is not None else ""
        where = f"{trial.label} seed {seed} ({trial.position}/{len(trial.seeds)})"
        spent = f"{event['rollouts']:,} of {self.run_budget:,} rollouts"
        return f"{where}: accuracy {accuracy:.3f}{against} after {spent}"


class Progress:
    """Shows a sweep's progress from `start` to `close`, in a thread beside the control loop."""

    def __init__(
        self, sweep_dir: Path, spec: Work, total_trials: int, console: Console | None = None
    ) -> None:
        """Prepare the display; nothing is shown before `start`.

        Args:
            total_trials: Number of configurations, including the reference.
            console: Where to print; default: standard output.
        """
        self._name = sweep_dir.name
        self._tail = Tail(sweep_dir)
        self._state = SweepProgress(spec, total_trials)
        self._console = console
        self._begun_s = time.monotonic()
        self._doing = "starting"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trimtab-progress", daemon=True)

    def start(self) -> None:
        """Start the display's thread and return. What an earlier driver has done is counted and not told."""
        self._begun_s = time.monotonic()
        self._state.take_over(self._tail.read())
        self._thread.start()

    def say(self, doing: str) -> None:
        """Show what is being done before there are trials to show: `starting Ray`."""
        self._doing = doing

    def close(self) -> None:
        """Show the last events and stop."""
        self._closing.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        from rich.console import Console

        console = self._console or Console()
        if console.is_terminal:
            self._show_live(console)
        else:
            self._print_lines(console)

    def _show_live(self, console: Console) -> None:
        from rich.live import Live

        with Live(console=console, auto_refresh=False) as live:
            while True:
                closing = self._closing.wait(POLL_S)
                self._state.feed(self._tail.read())
                # The last picture stays on screen and shows every trial; earlier ones must fit the screen.
                rows = None if closing else max(1, console.height - AROUND)
                elapsed_s = time.monotonic() - self._begun_s
                shown = render(self._name, self._state, elapsed_s, rows, doing=self._doing)
                live.update(shown, refresh=True)
                if closing:
                    return

    def _print_lines(self, console: Console) -> None:
        console.print(f"{self._name}: {self._doing}", highlight=False)
        said_s, said = 0.0, self._doing
        while True:
            lines = self._state.feed(self._tail.read())
            now_s = time.monotonic() - self._begun_s
            doing = self._state.stages() or self._doing
            if not lines and not self._state.running and (doing != said or now_s - said_s >= SILENT_S):
                lines, said = [f"{self._name}: {doing} · {clock(now_s)}"], doing
            for line in lines:
                console.print(line, highlight=False, markup=False, soft_wrap=True)
                said_s = now_s
            if self._closing.is_set():
                return
            self._closing.wait(POLL_S)


def render(
    name: str, state: SweepProgress, elapsed_s: float, rows: int | None = None, doing: str = "starting"
) -> RenderableType:
    """Return a table with one row per trial, and a line for the whole sweep.

    Args:
        doing: What is shown while there is no trial yet, or all of them wait.
        rows: Maximum number of trials. Running trials come before ended ones, later ones before earlier ones.
            Default: all trials.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("trial", overflow="fold")
    titles = ("stage", "seed", "accuracy\nof it", f"- {state.reference}", "mean\nof seeds", "rollouts")
    for title in titles:
        table.add_column(title, justify="left" if title == "stage" else "right")
    latest = sorted(state.trials.values(), key=lambda trial: (trial.ended, -trial.number))[:rows]
    for trial in sorted(latest, key=lambda trial: trial.number):
        minus = state.minus_reference(trial)
        table.add_row(
            trial.shown,
            trial.stage,
            f"{trial.position}/{len(trial.seeds)}",
            "" if trial.accuracy is None else f"{trial.accuracy:.3f}",
            "" if minus is None else f"{minus:+.3f}",
            "" if (mean := state.mean_minus_reference(trial)) is None else f"{mean[0]:+.3f} of {mean[1]}",
            f"{trial.rollouts:,}/{state.trial_budget:,}",
        )
    if not state.trials:
        return Text(f"{name}: {doing} · {clock(elapsed_s)}")
    eta = state.eta_s()
    left = f" · about {clock(eta)} left" if eta is not None else ""
    hidden = len(state.trials) - len(latest)
    if hidden:
        left += f" · {hidden} not shown"
    summary = (
        f"{name}: {state.ended} of {state.total_trials} configurations · "
        f"{state.rollouts:,} of {state.total:,} rollouts · {clock(elapsed_s)}{left}"
    )
    if not state.running and not state.stages():
        summary += f" · {doing}"  # every trial waits: for what?
    return Group(table, Text(summary))


def clock(seconds: float) -> str:
    """Format a duration as `1:02:03`, or as `2:03` under an hour."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _because(event: Event) -> str:
    error = event.get("error")
    return f": {error.splitlines()[0]}" if error else ""
