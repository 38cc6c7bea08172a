"""The control loop of a sweep: Tune over the searcher, its trials being light clients of the broker."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from ray import tune

from trimtab.planning.plan import TRIAL_CPUS
from trimtab.search.halt import Halt
from trimtab.search.scheduler import StudyScheduler
from trimtab.search.searcher import StudySearcher
from trimtab.slots.client import tune_trial


def run_trials(
    searcher: StudySearcher,
    broker: Any,
    folder: Path,
    at_once: int,
    resources: Any = None,
    *,
    shared: bool = False,
) -> int:
    """Run all trials that the searcher has left, `at_once` at a time; return how many of them failed.

    `resources`: what one trial takes, as Tune wants it; a trial is a light client. It may say where.
    `shared`: slots that would idle may run seeds of a trial that another slot runs.

    Raises:
        SpecError: a trial failed by what the user wrote, so that the rest was not tried.
    """
    # A failed trial is told by the journal, the display and MLflow; Tune would print its traceback as well.
    logging.getLogger("ray.tune.execution.tune_controller").setLevel(logging.CRITICAL)
    # The studies are the sweep's state; what Tune keeps of an earlier driver would only get in its way.
    shutil.rmtree(folder / "tune", ignore_errors=True)
    halt = Halt(folder)
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(tune_trial, broker=broker, sweep_dir=str(folder), shared=shared),
            resources or {"CPU": TRIAL_CPUS},
        ),
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            search_alg=searcher,
            scheduler=StudyScheduler(searcher),
            num_samples=searcher.left,
            max_concurrent_trials=at_once,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune", storage_path=str(folder), verbose=0, callbacks=[halt], stop=halt
        ),
    )
    results = tuner.fit()
    halt.check()
    return int(results.num_errors)
