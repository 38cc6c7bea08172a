"""Run a sweep: local Ray, slots, Tune; tracking and progress beside it; everything ended again.

Imports Ray, Tune and Optuna: the CLI loads this module only when a sweep runs.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

import psutil

from trimtab import records
from trimtab.guardian import guarded
from trimtab.home import sweep_dir, tracking_uri
from trimtab.machine import this_machine
from trimtab.plan import TRIAL_CPUS, Plan, make_plan
from trimtab.progress import Progress
from trimtab.records import Tail
from trimtab.search import StudySearcher
from trimtab.spec import SweepSpec
from trimtab.study import create_studies, load_studies
from trimtab.tracking import Tracker

CLOSE_S = 60.0
"""Longest wait for slots to end by themselves, and for the tracker to catch up."""


INTERRUPTED_S = 10.0
"""The same when the user is waiting at the prompt after Ctrl-C."""


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended. What it found is in MLflow."""

    name: str
    status: Literal["finished", "killed", "failed"]
    unsent: list[str]
    """Runs whose results could not be sent to MLflow in time; they are still in the sweep's journal."""


def run_sweep(spec: SweepSpec, name: str, home: Path, *, resume: bool = False) -> SweepResult:
    """Run every configuration of a spec in the folder `<home>/sweeps/<name>`, which must exist.

    With `resume` the studies there are continued: what has ended stays, what was under way goes on from its
    checkpoints, and the rest is searched as if nothing had happened.

    Raises PlanError before anything is started when the machine cannot hold one slot. Ends every process it
    started, however it ends. SIGINT and SIGTERM end it early; finished trials stay recorded.
    """
    machine = this_machine()
    plan = make_plan(spec, machine.cpus, machine.gpus, machine.memory_bytes)
    folder = sweep_dir(home, name).resolve()
    _prepare_environment(home)
    model = _resolve_model(spec, home)
    if resume:
        records.repair(folder)
    searcher = StudySearcher(spec, (load_studies if resume else create_studies)(spec, name, folder))
    tracker = Tracker(folder, tracking_uri(home, spec.tracking.uri), name, spec)
    progress = Progress(folder, spec, plan.trials)
    status: Literal["finished", "killed", "failed"] = "failed"
    with ExitStack() as stack:
        tracker.start()
        progress.start()
        stack.callback(progress.close)
        try:
            with guarded(), _interruptible():
                failed = _run_trials(spec, searcher, folder, plan, model)
            status = "failed" if failed else "finished"
        except KeyboardInterrupt:
            status = "killed"
        finally:
            _close_journal(folder, status)
            unsent = tracker.close(status, CLOSE_S)
    return SweepResult(name, status, unsent)


def _run_trials(spec: SweepSpec, searcher: StudySearcher, folder: Path, plan: Plan, model: str) -> bool:
    """Everything between starting Ray and ending it. Returns whether every trial failed."""
    trials = searcher.left
    if not trials:
        return False
    import ray
    from ray import tune

    from trainables.slots.broker import Broker
    from trainables.slots.client import tune_trial
    from trainables.slots.host import Slots, SlotSpec
    from trimtab.halt import Halt
    from trimtab.scheduler import StudyScheduler

    # A failed trial is told by the journal, the display and MLflow; Tune would print its traceback as well.
    logging.getLogger("ray.tune.execution.tune_controller").setLevel(logging.CRITICAL)
    config = spec.reference_config()
    with _local_ray(plan):
        broker = ray.remote(Broker).options(num_cpus=0, max_concurrency=1000).remote(str(folder))
        slots = Slots(
            SlotSpec(
                model=model,
                learner=config.learner,
                engine=config.engine,
                learner_cpus=plan.slot.learner_cpus,
                engine_cpus=plan.slot.engine_cpus,
                learner_gpus=plan.slot.learner_gpus,
                engine_gpus=plan.slot.engine_gpus,
                storage=str(folder / "train"),
            ),
            plan.slots,
            broker,
        )
        grace = CLOSE_S
        halted = Halt()
        # The studies are the sweep's state; what Tune keeps of an earlier driver would only get in its way.
        shutil.rmtree(folder / "tune", ignore_errors=True)
        try:
            slots.start()
            tuner = tune.Tuner(
                tune.with_resources(
                    tune.with_parameters(tune_trial, broker=broker, sweep_dir=str(folder)),
                    {"CPU": TRIAL_CPUS},
                ),
                tune_config=tune.TuneConfig(
                    metric="score",
                    mode="max",
                    search_alg=searcher,
                    scheduler=StudyScheduler(searcher),
                    num_samples=trials,
                    max_concurrent_trials=plan.slots,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name="tune", storage_path=str(folder), verbose=0, callbacks=[halted], stop=halted
                ),
            )
            results = tuner.fit()
            halted.check()
            return bool(results.num_errors == trials)
        except KeyboardInterrupt:
            # Enough for running trials to end at their next step; slots still starting are not waited for.
            grace = INTERRUPTED_S
            raise
        finally:
            slots.close(grace)


@contextmanager
def _local_ray(plan: Plan) -> Iterator[None]:
    """A Ray cluster of this sweep's own, on loopback, ended with it."""
    import ray

    ray.init(
        address="local",
        num_cpus=max(1, int(plan.cpus)),
        # Ray Train frees the workers of ended runs through the dashboard's State API.
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        yield
    finally:
        started = _processes_of(ray.get_runtime_context().get_session_name())
        ray.shutdown()
        _outlive(started)


def _processes_of(session: str) -> list[psutil.Process]:
    """The processes of a Ray session that this process started, workers included."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any(session in argument for argument in child.cmdline()):
                found += [child, *child.children(recursive=True)]
    return found


def _outlive(processes: list[psutil.Process]) -> None:
    """Return when all of these have ended; kill what takes too long. psutil never mistakes a recycled pid."""
    _, alive = psutil.wait_procs(processes, timeout=INTERRUPTED_S)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=INTERRUPTED_S)


@contextmanager
def _interruptible() -> Iterator[None]:
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


def _close_journal(folder: Path, status: str) -> None:
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
        records.append(
            folder,
            {"event": "trial_finished", "trial": trial, "time": time.time(), "status": ended, "error": None},
        )


def _prepare_environment(home: Path) -> None:
    """Settings that every process of the sweep inherits. What the user has set stays."""
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
        "TORCH_EXTENSIONS_DIR": str((home / "torch_extensions").resolve()),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)


def _resolve_model(spec: SweepSpec, home: Path) -> str:
    from trainables.models.resolve import resolve_model

    return str(resolve_model(spec.reference_config().model, home / "models"))
