"""A session: one run of a sweep or of a training, with everything that it needs begun and ended again."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from trimtab.session.cluster import RayCluster
from trimtab.session.environment import prepare_environment
from trimtab.session.guardian import guarded
from trimtab.session.own_ray import INTERRUPTED_S
from trimtab.sweepdir import journal
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepdir.home import tracking_uri
from trimtab.sweepspec.spec import Work
from trimtab.tracking.tracker import Tracker
from trimtab.watch.progress import Progress

if TYPE_CHECKING:
    from trimtab.slots.host import Slots

CLOSE_S = 60.0
"""Longest wait for slots to end by themselves, and for the tracker to catch up."""

SessionStatus: TypeAlias = Literal["finished", "killed", "failed"]
Body: TypeAlias = "Callable[[Any, Slots], bool]"
"""Uses a broker and the slots behind it; returns whether anything came of it."""


@dataclass(frozen=True)
class Ended:
    """How a session ended."""

    status: SessionStatus
    """`killed`: by SIGINT or SIGTERM."""
    unsent: list[str]
    """Runs whose results could not be sent to MLflow in time; they are still in the journal."""


@dataclass(frozen=True)
class Lent:
    """Slots that one piece of work leaves to the next, with their broker."""

    broker: Any
    slots: Slots


Then: TypeAlias = Callable[[Lent], SessionStatus]
"""Does the next piece of work on slots that are up already; returns how that ended."""


class _Watch:
    """Journal, tracker and display of one piece of work. Its first end counts."""

    def __init__(self, folder: SweepDir, work: Work, track_s: float) -> None:
        self._folder, self._track_s = folder, track_s
        uri = tracking_uri(folder.home, work.tracking.uri)
        self._tracker = Tracker(folder.path, uri, folder.name, work)
        self._progress = Progress(folder.path, work, work.trials)
        self.ended: Ended | None = None

    def start(self) -> None:
        self._tracker.start()
        self._progress.start()

    def say(self, doing: str) -> None:
        """Show what is being done before there are trials to show."""
        self._progress.say(doing)

    def end(self, status: SessionStatus) -> Ended:
        """Close all three and return how the work ended."""
        if self.ended is None:
            unsent: list[str] = []
            try:
                close_journal(self._folder, status)
                unsent = self._tracker.close(status, self._track_s if status == "finished" else CLOSE_S)
            finally:
                self.ended = Ended(status, unsent)
                self._progress.close()
        return self.ended


@dataclass(frozen=True)
class Session:
    """Ray, broker, slots, meters, tracker and display around one piece of work in one folder."""

    folder: SweepDir
    work: Work
    cluster: RayCluster
    track_s: float = CLOSE_S
    """Longest wait for the tracking store once the work has finished."""
    lent: Lent | None = None
    """Slots that are up already; the session that started them ends them."""

    def run(self, body: Body | None, then: Then | None = None) -> Ended:
        """Run `body` and end every process that was started for it, however it ends.

        Without a body nothing is left to do: no Ray is started, and the tracker catches up. SIGINT and
        SIGTERM end the body early; what has finished stays recorded. What the body raises is raised.
        `then` is called after a body that worked, when this work has been tracked and before its slots end.
        """
        home = self.folder.home
        prepare_environment(home)
        # What can refuse comes before what runs beside it.
        try:
            with interruptible():
                model = resolve_model(self.work, home)
        except KeyboardInterrupt:
            return Ended("killed", [])
        watch = _Watch(self.folder, self.work, self.track_s)
        status: SessionStatus = "failed"
        watch.start()
        try:
            with guarded(), interruptible():
                worked = body is None or self._with_slots(model, body, watch, then)
            status = "finished" if worked else "failed"
        except KeyboardInterrupt:
            status = "killed"
        finally:
            ended = watch.end(status)
        return ended

    def _with_slots(self, model: str, body: Body, watch: _Watch, then: Then | None) -> bool:
        """Do everything between starting Ray and ending it, or between two others' uses of lent slots."""
        if self.lent is not None:
            import ray

            ray.get(self.lent.broker.move.remote(str(self.folder.path)))
            with self.cluster.metered(self.folder.path, self.lent.broker):
                return body(self.lent.broker, self.lent.slots)
        watch.say("starting Ray")
        with self.cluster.running():
            broker = start_broker(self.folder.path)
            slots = self._slots(model, broker, watch.say)
            grace_s = CLOSE_S
            try:
                with self.cluster.metered(self.folder.path, broker):
                    slots.start()
                    worked = body(broker, slots)
                if worked and then is not None:
                    watch.end("finished")
                    if then(Lent(broker, slots)) == "killed":
                        raise KeyboardInterrupt
                return worked
            except KeyboardInterrupt:
                # Enough for what runs to end at its next step; slots still starting are not waited for.
                grace_s = INTERRUPTED_S
                raise
            finally:
                slots.close(grace_s)

    def _slots(self, model: str, broker: Any, say: Callable[[str], None]) -> Slots:
        """Return the plan's slots, not started yet."""
        from trimtab.slots.host import COLD, WARM, Slots, SlotSpec

        config, plan, wanted = self.work.reference_config(), self.cluster.plan, self.work.slots
        return Slots(
            SlotSpec(
                model=model,
                learner=config.learner,
                engine=config.engine,
                learner_cpus=plan.slot.learner_cpus,
                engine_cpus=plan.slot.engine_cpus,
                learner_gpus=plan.slot.learner_gpus,
                engine_gpus=plan.slot.engine_gpus,
                learner_resource=wanted.learner_resource,
                engine_resource=wanted.engine_resource,
                storage=str(self.folder.path / "train"),
                leases=COLD if wanted.reuse == "cold" else WARM,
            ),
            plan.slots,
            broker,
            say,
        )


def start_broker(sweep_dir: Path) -> Any:
    """Start the broker beside the driver: the loss of another node of a cluster does not take it."""
    import ray

    from trimtab.slots.broker import Broker
    from trimtab.slots.host import beside_driver

    actor = ray.remote(Broker).options(num_cpus=0, max_concurrency=1000, scheduling_strategy=beside_driver())
    return actor.remote(str(sweep_dir))


def resolve_model(work: Work, home: Path) -> str:
    """Return the path or hub id of the model that all configurations start from."""
    from trainables.models import resolve

    return str(resolve.resolve_model(work.reference_config().model, home / "models"))


def close_journal(folder: SweepDir, status: SessionStatus) -> None:
    """Enter an end for every trial that has none: the session ended before it did."""
    unended: dict[str, None] = {}
    for event in folder.events():
        match event["event"]:
            case "trial_started":
                unended[event["trial"]] = None
            case "trial_finished":
                unended.pop(event["trial"], None)
    ended = "killed" if status == "killed" else "failed"
    for trial in unended:
        journal.append(
            folder.path,
            {"event": "trial_finished", "trial": trial, "time": time.time(), "status": ended, "error": None},
        )


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first SIGINT or SIGTERM; ignore others while things are being ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        for which in (signal.SIGINT, signal.SIGTERM):
            signal.signal(which, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {which: signal.signal(which, interrupt) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
