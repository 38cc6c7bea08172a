"""Measure a slot: seconds from one trial's end to the next one's first step, rebuilds, memory.

    python -m benchmarks.slot_turnaround --part turnaround rebuild leases

turnaround  one slot and two slots, cold (fresh processes for every lease) and warm, in one run; also a trial
            as a script of its own, from the start of a new Python to its first step, Ray included
rebuild     SIGKILL of the engine or of the learner worker during a trial, until the next trial's first step
leases      100 tiny trials on one slot, with the resident memory of its processes after each

A plain driver leases the slots, without Tune, so that only the slot is measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from trainables.config import EngineConfig, LearnerConfig
from trainables.trial import TrialConfig


class Driver:
    """Slots with their broker, on which trials run one after another."""

    def __init__(self, folder: Path, model: Path, slots: int, leases: int) -> None:
        import ray

        from trimtab.slots.broker import Broker
        from trimtab.slots.host import Slots, SlotSpec

        self._model = str(model)
        self._folder = folder
        self._count = 0
        self.broker = ray.remote(Broker).options(num_cpus=0, max_concurrency=1000).remote(str(folder))
        spec = SlotSpec(
            self._model,
            LearnerConfig(),
            EngineConfig(),
            learner_cpus=0.2,
            engine_cpus=0.2,
            storage=str(folder / "train"),
            leases=leases,
        )
        self.slots = Slots(spec, slots, self.broker)
        self.slots.start()

    def trial(self, steps: int = 2, seen: Callable[[dict[str, Any]], None] | None = None) -> dict[str, float]:
        """Run one tiny trial and return the clock times of its submission, first step and end."""
        import ray

        self._count += 1
        name = f"trial-{self._count}"
        config = TrialConfig.model_validate(
            {
                "model": self._model,
                "strategy": {"preset": "grpo", "group_size": 4},
                "steps": steps,
                "rollouts_per_step": 128,
                "task": {"validation_prompts": 16},
                "evaluation": {"every": steps, "samples": 1},
            }
        )
        payload = {"config": config.model_dump(mode="json"), "seeds": [0], "output": str(self._folder / name)}
        clock = {"submitted": time.monotonic()}
        token = ray.get(self.broker.submit.remote(name, payload))
        cursor, end = 0, None
        while end is None:
            events, end = ray.get(self.broker.poll.remote(token, cursor))
            cursor += len(events)
            for event in events:
                if event["event"] == "step":
                    clock.setdefault("stepped", time.monotonic())
                if seen:
                    seen(event)
        clock["ended"] = time.monotonic()
        if end.outcome not in ("finished", "lost"):
            raise RuntimeError(f"{name}: {end}")
        return clock

    def gaps(self, trials: int) -> list[float]:
        """Return the seconds from each trial's end to the next one's first step. The first trial warms up."""
        clocks = [self.trial() for _ in range(trials + 1)]
        return [b["stepped"] - a["ended"] for a, b in itertools.pairwise(clocks)]


@contextmanager
def slots(model: Path, count: int, leases: int) -> Iterator[Driver]:
    with tempfile.TemporaryDirectory() as folder:
        driver = Driver(Path(folder), model, count, leases)
        try:
            yield driver
        finally:
            driver.slots.close(60)


def turnaround(model: Path, count: int, leases: int, trials: int) -> list[float]:
    """Return the gaps of `count` concurrent streams of trials."""
    with slots(model, count, leases) as driver, ThreadPoolExecutor(count) as streams:
        return [gap for gaps in streams.map(driver.gaps, [trials] * count) for gap in gaps]


def measure_turnaround(model: Path, trials: int) -> dict[str, float]:
    from trimtab.slots.host import COLD, WARM

    found: dict[str, float] = {}
    for count in (1, 2):
        warm = statistics.median(turnaround(model, count, WARM, trials))
        cold = statistics.median(turnaround(model, count, COLD, 2))
        found |= {f"warm_{count}": warm, f"cold_{count}": cold, f"ratio_{count}": cold / warm}
    alone = statistics.median(measure_script() for _ in range(2))
    return found | {"script": alone, "ratio_script": alone / found["warm_1"]}


def measure_script() -> float:
    """Return the seconds from the start of a Python process to the first step of its only trial."""
    command = [sys.executable, "-m", "benchmarks.slot_turnaround", "--part", "script"]
    began = time.time()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer["stepped"] - began


def one_trial(model: Path) -> dict[str, float]:
    """Run a trial on fresh processes and return the clock time of its first step."""
    from trimtab.slots.host import WARM

    with slots(model, 1, WARM) as driver:
        first: list[float] = []
        driver.trial(seen=lambda event: first.append(time.time()) if event["event"] == "step" else None)
    return {"stepped": first[0]}


def measure_rebuild(model: Path) -> dict[str, float]:
    """Return the seconds from a kill to the first step of the next trial."""
    import ray

    from trimtab.slots.host import WARM

    found: dict[str, float] = {}
    with slots(model, 1, WARM) as driver:
        for half in ("engine", "learner"):
            driver.trial()
            killed: list[float] = []

            def kill(event: dict[str, Any], half: str = half, killed: list[float] = killed) -> None:
                if event["event"] == "step" and not killed:
                    os.kill(_pid(driver, half, ray), signal.SIGKILL)
                    killed.append(time.monotonic())

            driver.trial(steps=100, seen=kill)
            found[f"rebuild_{half}"] = driver.trial()["stepped"] - killed[0]
    return found


def _pid(driver: Driver, half: str, ray: Any) -> int:
    if half == "engine":
        return int(ray.get(driver.slots.engines[0].__ray_call__.remote(lambda _: os.getpid())))
    return next(p.pid for p in _processes() if "RayTrainWorker" in _title(p))


def measure_leases(model: Path, leases: int) -> dict[str, float]:
    """Return the resident memory of learner worker and engine after the tenth and the last lease, in MB."""
    from trimtab.slots.host import WARM

    rss = []
    with slots(model, 1, WARM) as driver:
        for _ in range(leases):
            driver.trial(steps=1)
            rss.append(sum(_rss(p) for p in _processes()) / 1e6)
    early = rss[min(9, leases - 1)]
    return {"leases": leases, "rss_10_mb": early, "rss_last_mb": rss[-1], "growth": rss[-1] / early - 1}


def _processes() -> list[psutil.Process]:
    """Return the slot's learner workers and engines among the processes that this one started."""
    children = psutil.Process().children(recursive=True)
    return [p for p in children if any(name in _title(p) for name in ("RayTrainWorker", "EngineActor"))]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("turnaround", "rebuild", "leases")
    parser.add_argument("--part", nargs="+", choices=(*parts, "script"), default=parts)
    parser.add_argument("--trials", type=int, default=10, help="warm gaps per stream")
    parser.add_argument("--leases", type=int, default=100)
    parser.add_argument("--cache", type=Path, default=Path(".trimtab/models"))
    args = parser.parse_args()
    import ray

    from trainables.models.tiny import ensure_tiny
    from trimtab.session.own_ray import start_ray

    model = ensure_tiny(args.cache).resolve()
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    start_ray(num_cpus=2)
    measures: dict[str, Callable[[], dict[str, float]]] = {
        "turnaround": lambda: measure_turnaround(model, args.trials),
        "rebuild": lambda: measure_rebuild(model),
        "leases": lambda: measure_leases(model, args.leases),
        "script": lambda: one_trial(model),
    }
    for part in args.part:
        found = {name: round(value, 3) for name, value in measures[part]().items()}
        print(json.dumps({"part": part, **found}), flush=True)
    ray.shutdown()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
