"""How long a slot stands between two trials: warm against cold, one and two slots, and what 100 leases leave.

`make bench BENCH=slot_turnaround` (`ARGS="--part turnaround"`, `rebuild` or `leases`). Real sweeps through
Tune at the main job's workload (128 rollouts a step), with random V0.5 configurations of few steps.
Turnaround: from the last event of a slot's trial to the end of the next one's first step, and to the moment
its reset is done; a cold trial's reset includes starting its processes. Rebuild: from SIGKILL of one half of
the only slot to the next finished step.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from trimtab import api, records
from trimtab.spec import load_spec

WARM_GOAL_S, RATIO_GOAL, GROWTH_GOAL, REBUILD_GOAL_S = 1.0, 70.0, 0.10, 35.0
PARTS = ("turnaround", "rebuild", "leases")
SLOT_PROCESSES = ("ray::RayTrainWorker", "ray::EngineActor")


@dataclass(frozen=True)
class Trial:
    """When a trial held its slot, in seconds since the epoch."""

    leased: float
    """Its reset began."""
    ready: float
    """Its reset was done."""
    stepped: float
    """Its first step was done."""
    ended: float


def swept(home: Path, name: str, *overrides: str) -> list[Trial]:
    """Run a small sweep and read from its journal who held a slot when, in order of time."""
    spec = load_spec(
        "quickstart",
        [
            f"home={home}",
            "seeds=[0]",
            "search.sampler=random",
            "trial.task.validation_prompts=64",
            "trial.evaluation.every=100",
            *overrides,
        ],
    )
    result = api.sweep(spec, name=name)
    if result.status != "finished":
        raise RuntimeError(f"sweep {name} ended as {result.status}")
    folder = home / "sweeps" / name
    return sorted(
        (_trial(records.read(folder, file.stem)) for file in (folder / "records").glob("*.jsonl")),
        key=lambda trial: trial.leased,
    )


def _trial(events: list[records.Event]) -> Trial:
    stages = [event for event in events if event["event"] == "stage"]
    return Trial(
        leased=next(event["time"] for event in stages if event["stage"] == "resetting"),
        ready=next(event["time"] for event in stages if event["stage"] == "training"),
        stepped=next(event["time"] for event in events if event["event"] == "step"),
        ended=max(event["time"] for event in events if event["event"] == "run_finished"),
    )


def gaps(trials: list[Trial]) -> Iterator[tuple[float, float]]:
    """(Seconds to ready, seconds to the first step) after the trial that freed the slot."""
    freed: list[float] = []
    for trial in trials:
        free = [end for end in freed if end <= trial.leased]
        if free:
            # The slot that was freed last and not taken since.
            last = max(free)
            freed.remove(last)
            yield trial.ready - last, trial.stepped - last
        freed.append(trial.ended)


def turnaround(home: Path) -> None:
    medians = {}
    for label, trials, overrides in (
        ("cold, 1 slot", 3, ("slots.count=1", "slots.reuse=cold")),
        ("warm, 1 slot", 12, ("slots.count=1",)),
        ("warm, 2 slots", 24, ("slots.count=2",)),
    ):
        found = list(
            gaps(
                swept(
                    home,
                    label.replace(", ", "-").replace(" ", "-"),
                    f"search.trials={trials - 1}",
                    "trial.steps=4",
                    *overrides,
                )
            )
        )
        ready, stepped = ([gap[k] for gap in found] for k in (0, 1))
        medians[label] = statistics.median(stepped)
        print(
            f"{label}: {medians[label]:.2f} s to the first step (median of {len(found)}; {min(stepped):.2f} "
            f"to {max(stepped):.2f}), {statistics.median(ready):.2f} s to the end of the reset; cold / this "
            f"= {medians['cold, 1 slot'] / medians[label]:.0f}",
            flush=True,
        )
    warm = medians["warm, 1 slot"]
    print(
        f"goals: warm <= {WARM_GOAL_S:g} s: {'met' if warm <= WARM_GOAL_S else 'missed'}; cold / warm >= "
        f"{RATIO_GOAL:g}: {'met' if medians['cold, 1 slot'] / warm >= RATIO_GOAL else 'missed'}"
    )


def rebuild(home: Path) -> None:
    """Kill each half of a slot in the middle of a trial, and wait for the next step."""
    for half in SLOT_PROCESSES:
        name = half.rpartition("::")[2]
        command = [sys.executable, "-m", "trimtab", "sweep", "quickstart", "--name", name]
        settings = [
            f"home={home}",
            "slots.count=1",
            "search.trials=1",
            "seeds=[0]",
            "trial.checkpoint_every=5",
        ]
        sweep = psutil.Popen(
            [*command, *(part for setting in settings for part in ("--set", setting))],
            stdout=subprocess.DEVNULL,
        )
        steps = _steps(home / "sweeps" / name, sweep)
        for _ in range(10):
            next(steps)
        (victim,) = [p for p in sweep.children(recursive=True) if " ".join(p.cmdline()).startswith(half)]
        killed = time.time()
        victim.kill()
        back = next(at for at in steps if at > killed + 1)
        print(f"{name} killed: next step after {back - killed:.1f} s (goal {REBUILD_GOAL_S:g})", flush=True)
        sweep.wait()


def _steps(folder: Path, sweep: psutil.Popen) -> Iterator[float]:
    """When each step was done, as the journal tells it while the sweep runs."""
    tail = records.Tail(folder)
    while sweep.is_running() and sweep.status() != psutil.STATUS_ZOMBIE:
        yield from (event["time"] for event in tail.read() if event["event"] == "step")
        time.sleep(0.05)


def leases(home: Path, count: int) -> None:
    """Memory of one slot's processes over so many leases, sampled while each trains."""
    with sampled() as memory:
        swept(home, "leases", "slots.count=1", f"search.trials={count - 1}", "trial.steps=2")
    tenth = max(1, len(memory) // 10)
    early, late = (statistics.median(part) for part in (memory[tenth : 2 * tenth], memory[-tenth:]))
    print(
        f"{count} leases on one slot: learner and engine took {early / 1e9:.3f} GB in the second tenth of "
        f"the time and {late / 1e9:.3f} GB in the last ({late / early - 1:+.1%}; goal {GROWTH_GOAL:.0%})"
    )


@contextmanager
def sampled() -> Iterator[list[int]]:
    """Bytes that the slot's processes hold (unique set size), twice a second while they exist."""
    memory: list[int] = []
    closing = threading.Event()

    def watch() -> None:
        while not closing.wait(0.5):
            held = [_unique(process) for process in psutil.Process().children(recursive=True)]
            # Both halves of the slot, or it is still starting or ending.
            if sum(size > 0 for size in held) >= len(SLOT_PROCESSES):
                memory.append(sum(held))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        closing.set()
        thread.join()


def _unique(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        if process.cmdline()[:1] and process.cmdline()[0].startswith(SLOT_PROCESSES):
            return int(process.memory_full_info().uss)
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--leases", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if "turnaround" in arguments.part:
            turnaround(Path(folder))
        if "rebuild" in arguments.part:
            rebuild(Path(folder))
        if "leases" in arguments.part:
            leases(Path(folder), arguments.leases)


if __name__ == "__main__":
    main()
