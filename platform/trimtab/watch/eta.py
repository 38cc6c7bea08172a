"""How long a sweep will still take, by the pace of its runs so far. Pure: events in, seconds out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trimtab.sweepdir.journal import Event


@dataclass
class Pace:
    """One run's times since a slot last took it."""

    begun_s: float
    mark: tuple[float, int] | None = None
    """Time and rollouts from which its pace counts: the first evaluation, or step of a resumed run."""
    step: tuple[float, int] | None = None
    evaluation: tuple[float, int] | None = None
    """The latest of each. A pace from evaluation to evaluation has the cost of both in it."""

    def take(self, event: Event) -> None:
        """Enter a step or an evaluation."""
        point = event["time"], event["rollouts"]
        if self.mark is None:
            self.mark = point
        elif event["event"] == "step":
            self.step = point
        elif point[1] > self.mark[1]:
            self.evaluation = point

    @property
    def spent(self) -> tuple[float, int]:
        """Return the seconds and rollouts that its pace is measured over."""
        last = self.evaluation or self.step
        if self.mark is None or last is None:
            return 0.0, 0
        return last[0] - self.mark[0], last[1] - self.mark[1]


@dataclass
class Clock:
    """The paces of all runs of a sweep, and how many ran at once.

    Start-up is left out: a run counts from when a slot begins with it, and not from when it is queued.
    """

    runs: dict[tuple[str, int], Pace] = field(default_factory=dict)
    """The latest turn of each run under way or ended."""
    under_way: set[tuple[str, int]] = field(default_factory=set)
    at_once: int = 0
    """Most runs that were under way at the same time."""
    _seconds: float = 0.0
    _rollouts: int = 0
    """Of turns that a later one of the same run replaced."""

    def forget_under_way(self) -> None:
        """Begin again after a driver that has ended: what ran then runs no more."""
        self.under_way.clear()

    def take(self, event: Event) -> None:
        """Enter an event of a trial."""
        trial, seed, kind = event["trial"], event.get("seed"), event["event"]
        if kind == "trial_finished":
            self.under_way = {run for run in self.under_way if run[0] != trial}
        if seed is None:
            return
        run = trial, seed
        if kind == "run_finished":
            self.under_way.discard(run)
        elif kind == "stage" and (event["stage"] == "resetting" or run not in self.under_way):
            self._begin(run, event["time"])
        elif kind in ("step", "evaluation"):
            if run not in self.under_way:
                self._begin(run, event["time"])
            self.runs[run].take(event)

    def _begin(self, run: tuple[str, int], time_s: float) -> None:
        if run in self.runs:
            seconds, rollouts = self.runs[run].spent
            self._seconds, self._rollouts = self._seconds + seconds, self._rollouts + rollouts
        self.runs[run] = Pace(time_s)
        self.under_way.add(run)
        self.at_once = max(self.at_once, len(self.under_way))

    def left_s(self, to_do: Mapping[tuple[str, int], int], untouched: int, budget: int) -> float | None:
        """Return the seconds until the last run ends; None until a pace is known.

        `to_do`: rollouts that begun runs have left; `untouched`: runs of `budget` that nobody has begun.
        """
        spent = [pace.spent for pace in self.runs.values()]
        rollouts = self._rollouts + sum(one[1] for one in spent)
        if not rollouts:
            return None
        each_s = (self._seconds + sum(one[0] for one in spent)) / rollouts
        begins = [pace.mark[0] - pace.begun_s for pace in self.runs.values() if pace.mark]
        whole_s = budget * each_s + sum(begins) / len(begins)
        longest = max([count * each_s for count in to_do.values()] + [whole_s] * bool(untouched), default=0.0)
        work_s = sum(to_do.values()) * each_s + untouched * whole_s
        return max(longest, work_s / max(1, self.at_once))
