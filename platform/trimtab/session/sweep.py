"""Run a sweep: local Ray, slots, Tune; tracking and progress beside it; everything ended again.

Imports Ray, Tune and Optuna: the CLI loads this module only when a sweep runs.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from trimtab.planning.machine import this_machine
from trimtab.planning.placement import MARK, plan_here
from trimtab.planning.plan import Plan
from trimtab.search.searcher import StudySearcher
from trimtab.search.study import create_studies, load_studies
from trimtab.session.guardian import guarded
from trimtab.session.own_ray import INTERRUPTED_S, local_ray
from trimtab.sweepdir import journal
from trimtab.sweepdir.home import sweep_dir, tracking_uri
from trimtab.sweepdir.journal import Tail
from trimtab.sweepspec.spec import SweepSpec
from trimtab.tracking.system import metered, metered_nodes
from trimtab.tracking.tracker import Tracker
from trimtab.watch.progress import Progress

if TYPE_CHECKING:
    from trimtab.slots.host import Slots

CLOSE_S = 60.0
"""Longest wait for slots to end by themselves, and for the tracker to catch up."""


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended. What it found is in MLflow."""

    name: str
    status: Literal["finished", "killed", "failed"]
    unsent: list[str]
    """Runs whose results could not be sent to MLflow in time; they are still in the sweep's journal."""


def run_sweep(
    spec: SweepSpec, name: str, home: Path, *, resume: bool = False, plan: Plan | None = None
) -> SweepResult:
    """Run every configuration of a spec in the folder `<home>/sweeps/<name>`, which must exist.

    With `resume` the studies there are continued: what has ended stays, what was under way goes on from its
    checkpoints, and the rest is searched as if nothing had happened.

    `plan`: this process has joined a Ray cluster, on which this is what fits. Without it the sweep starts a
    Ray of its own.

    Raises PlanError before anything is started when the machine cannot hold one slot. Ends every process it
    started, however it ends. SIGINT and SIGTERM end it early; finished trials stay recorded.
    """
    own = plan is None
    if plan is None:
        plan = plan_here(spec, this_machine())
    folder = sweep_dir(home, name).resolve()
    # What can refuse comes before what takes time: the built-in model is trained on first use.
    if resume:
        journal.repair(folder)
    searcher = StudySearcher(spec, (load_studies if resume else create_studies)(spec, name, folder))
    prepare_environment(home)
    model = resolve_model(spec, home)
    tracker = Tracker(folder, tracking_uri(home, spec.tracking.uri), name, spec)
    progress = Progress(folder, spec, plan.trials)
    status: Literal["finished", "killed", "failed"] = "failed"
    with ExitStack() as stack:
        tracker.start()
        progress.start()
        stack.callback(progress.close)
        try:
            with guarded(), interruptible():
                ray = local_ray(plan) if own else nullcontext()
                failed = _run_trials(spec, searcher, folder, plan, model, ray)
            status = "failed" if failed else "finished"
        except KeyboardInterrupt:
            status = "killed"
        finally:
            close_journal(folder, status)
            unsent = tracker.close(status, CLOSE_S)
    return SweepResult(name, status, unsent)


def _run_trials(
    spec: SweepSpec,
    searcher: StudySearcher,
    folder: Path,
    plan: Plan,
    model: str,
    cluster: AbstractContextManager[None],
) -> bool:
    """Everything between starting Ray and ending it. Returns whether every trial failed, or every slot."""
    import ray

    from trimtab.search.control import run_trials
    from trimtab.slots.broker import Broker
    from trimtab.slots.host import beside_driver

    trials = searcher.left
    if not trials:
        return False
    with cluster:
        broker = (
            ray.remote(Broker)
            .options(num_cpus=0, max_concurrency=1000, scheduling_strategy=beside_driver())
            .remote(str(folder))
        )
        slots = make_slots(spec, folder, plan, model, broker)
        grace = CLOSE_S
        joined = isinstance(cluster, nullcontext)
        meters = metered_nodes(broker) if joined else metered(folder)
        try:
            with meters:
                slots.start()
                placed = _beside_driver()
                failed = run_trials(searcher, broker, folder, plan.slots, placed, shared=_shares(spec))
            # Slots that all died leave the rest of the sweep undone, whatever had finished before.
            return failed == trials or (failed > 0 and slots.failed)
        except KeyboardInterrupt:
            # Enough for running trials to end at their next step; slots still starting are not waited for.
            grace = INTERRUPTED_S
            raise
        finally:
            slots.close(grace)


def _shares(spec: SweepSpec) -> bool:
    """Whether slots that would idle run seeds of another slot's trial. Not where a trial may be stopped: its
    verdict has not seen what runs ahead. Nor where each lease starts its processes."""
    return spec.search.early_stopping is None and spec.slots.reuse == "warm"


def make_slots(spec: SweepSpec, folder: Path, plan: Plan, model: str, broker: Any) -> Slots:
    """The slots of a plan, not started yet."""
    from trimtab.slots.host import COLD, WARM, Slots, SlotSpec

    config = spec.reference_config()
    return Slots(
        SlotSpec(
            model=model,
            learner=config.learner,
            engine=config.engine,
            learner_cpus=plan.slot.learner_cpus,
            engine_cpus=plan.slot.engine_cpus,
            learner_gpus=plan.slot.learner_gpus,
            engine_gpus=plan.slot.engine_gpus,
            learner_resource=spec.slots.learner_resource,
            engine_resource=spec.slots.engine_resource,
            storage=str(folder / "train"),
            leases=COLD if spec.slots.reuse == "cold" else WARM,
        ),
        plan.slots,
        broker,
    )


def _beside_driver() -> Any:
    """Trials live on the driver's node as well. A cluster's head often offers no CPU, but always its address,
    which other nodes may share (several on one machine): the node's id says which is meant."""
    import ray
    from ray.tune import PlacementGroupFactory

    here = {f"node:{ray.util.get_node_ip_address()}": MARK}
    node_id = ray.get_runtime_context().get_node_id()
    return PlacementGroupFactory([here], bundle_label_selector=[{"ray.io/node-id": node_id}])


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt once; while things are being ended, further ones wait."""
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


def close_journal(folder: Path, status: str) -> None:
    """Enter an end for every trial that has none: the sweep ended before it did."""
    open_trials: dict[str, set[int]] = {}
    for event in Tail(folder).read():
        trial = event["trial"]
        match event["event"]:
            case "trial_started":
                open_trials[trial] = set(event["seeds"])
            case "run_finished" if event.get("seed") is not None:
                open_trials.get(trial, set()).discard(int(event["seed"] or 0))
            case "trial_finished":
                open_trials.pop(trial, None)
    ended = "killed" if status == "killed" else "failed"
    for trial in open_trials:
        journal.append(
            folder,
            {"event": "trial_finished", "trial": trial, "time": time.time(), "status": ended, "error": None},
        )


def prepare_environment(home: Path) -> dict[str, str]:
    """Settings that every process of the sweep inherits. What the user has set stays. Returns all of them."""
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "180",
        # A slot is a dozen processes, most of them idle; the default warns beyond a few a core.
        "RAY_worker_maximum_startup_concurrency": "16",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        # Tune's new console output announces itself whatever the verbosity.
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        # The studies and the journal are the sweep's state; nobody reads Tune's, which would be written anew,
        # of all trials, every ten seconds.
        "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
        "TORCH_EXTENSIONS_DIR": str((home / "torch_extensions").resolve()),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)
    return {key: os.environ[key] for key in defaults}


def resolve_model(spec: SweepSpec, home: Path) -> str:
    from trainables.models import resolve

    return str(resolve.resolve_model(spec.reference_config().model, home / "models"))
