"""Measure what a sweep's control loop costs per reported result, with training that takes no time.

`make bench BENCH=control_cost` (`ARGS="--trials 10 100"`). Everything but the slots is real: Tune with its
trial actors, the searcher and its studies, the broker, its journal on disk, and the tracker into SQLite. In
place of a slot, an actor serves leases with made-up evaluations. Exits with 1 above 20 ms per report.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from trainables.worker.outcome import End
from trimtab.planning.plan import make_plan
from trimtab.search.control import run_trials
from trimtab.search.searcher import StudySearcher
from trimtab.search.study import create_studies
from trimtab.session.environment import prepare_environment
from trimtab.session.own_ray import local_ray
from trimtab.slots.broker import Broker
from trimtab.sweepdir.journal import Tail
from trimtab.sweepspec.load import load_spec
from trimtab.sweepspec.spec import SweepSpec
from trimtab.tracking.tracker import Tracker

REPORTS = 20
AT_ONCE = 2
GOAL_S = 0.020


class NoOpSlot:
    """Serves leases without a learner; evaluations are made up."""

    def __init__(self, name: str, broker: Any) -> None:
        self._name, self._broker = name, broker

    def serve(self) -> None:
        generation = ray.get(self._broker.register.remote(self._name))
        while (job := ray.get(self._broker.next.remote(self._name, generation))) != "quit":
            if job != "wait":
                self._run(job)

    def _run(self, job: dict[str, Any]) -> None:
        seed = ray.get(self._broker.take.remote(job["token"]))
        unit = job["config"]["rollouts_per_step"] * job["config"]["evaluation"]["every"]
        for k in range(REPORTS):
            spent = {"step": k, "rollouts": k * unit, "tokens": k * unit, "learner_tokens": k, "seconds": k}
            event = {"event": "evaluation", "seed": seed, "split": "validation", **spent}
            metrics = {"accuracy": (seed + k) % 7 / 7, "answers": 2.0}
            ray.get(self._broker.push.remote(job["token"], {**event, "metrics": metrics}))
        ended = {
            "event": "run_finished",
            "seed": seed,
            "status": "finished",
            "error": None,
            "checkpoint": None,
        }
        ray.get(self._broker.push.remote(job["token"], ended))
        ray.get(self._broker.finish.remote(self._name, job["token"], End("finished")))


def measure(trials: int, home: Path) -> tuple[float, float, float]:
    """Return seconds to the first report, seconds per later report, and the tracker's delay in seconds."""
    search = ["shared_search={}", "candidates.0.search={learner.lr: {float: [1e-5, 1e-3], log: true}}"]
    count = f"search={{trials: {trials - 1}, sampler: random}}"
    spec = load_spec("quickstart", [f"home={home}", *search, count, "seeds=[0]"])
    folder = home / "sweeps" / "bench"
    folder.mkdir(parents=True)
    prepare_environment(home)
    searcher = StudySearcher(spec, create_studies(spec, "bench", folder))
    tracker = Tracker(folder, f"sqlite:///{home / 'mlflow.db'}", "bench", spec)
    with local_ray(make_plan(spec, 2, 0, 16_000_000_000)):
        started = time.time()
        tracker.start()
        _run(spec, searcher, folder)
        ended = time.time()
    unsent = tracker.close("finished", 600)
    behind = time.time() - ended
    if unsent:
        raise RuntimeError(f"the tracker lost results: {unsent}")
    events = [event for event in Tail(folder).read() if event["event"] == "evaluation"]
    if len(events) != trials * REPORTS:
        raise RuntimeError(f"{len(events)} reports instead of {trials * REPORTS}")
    first, last = (pick(event["time"] for event in events) for pick in (min, max))
    return first - started, (last - first) / (len(events) - 1), behind


def _run(spec: SweepSpec, searcher: StudySearcher, folder: Path) -> None:
    broker = ray.remote(Broker).options(num_cpus=0, max_concurrency=1000).remote(str(folder))
    names = [f"slot-{k}" for k in range(AT_ONCE)]
    ray.get(broker.expect.remote(names))
    slots = [ray.remote(NoOpSlot).options(num_cpus=0).remote(name, broker) for name in names]
    serving = [slot.serve.remote() for slot in slots]
    failed = run_trials(searcher, broker, folder, AT_ONCE)
    ray.get(broker.close.remote())
    ray.get(serving)
    if failed:
        raise RuntimeError(f"{failed} no-op trials failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[10, 100, 1000])
    costs = []
    for trials in parser.parse_args().trials:
        with tempfile.TemporaryDirectory() as home:
            start, cost, behind = measure(trials, Path(home))
        costs.append(cost)
        print(
            f"{trials:5} trials x {REPORTS} reports, {AT_ONCE} at once: {1000 * cost:6.1f} ms a report "
            f"({cost / costs[0]:.2f} x the first row); first report after {start:.1f} s; "
            f"tracker done {behind:.1f} s after the last",
            flush=True,
        )
    if max(costs) > GOAL_S:
        sys.exit(f"over {1000 * GOAL_S:g} ms a report")


if __name__ == "__main__":
    main()
