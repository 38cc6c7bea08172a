"""Measure overhead and throughput on a cluster. Needs root (network namespaces) and Debian's PostgreSQL.

`make bench BENCH=cluster` (`ARGS="--part nodes"`). Four parts, each with real Ray nodes in namespaces of
their own (`cluster/namespaces.py`) or a real PostgreSQL; all of them share the cores of this machine:

- `submit`: seconds from `trimtab submit` to the first step, compared with the same sweep on a Ray of its own.
- `nodes`: steps per second that broker and journal take from no-op learners, one on each of 1, 2, 4 nodes.
- `loss`: seconds from the loss of an engine's node to the run's next step on another node.
- `study`: trials per second of one Optuna study in PostgreSQL with 64 concurrent workers, each with its own
  connections, compared with one worker.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

# Pytest finds the modules of tests/support through its settings; here, they must be added.
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from cluster.namespaces import NamespaceCluster
from cluster.nodes import LocalCluster
from tests.cluster.site_services import postgres
from trimtab.security import prepare_ray_auth
from trimtab.sweepdir.journal import Tail

WORKERS = 64
TRIALS = 256
STEPS = 400
SPEC: dict[str, Any] = {
    "name": "bench",
    "trial": {
        "steps": 12,
        "rollouts_per_step": 32,
        "task": {"train_prompts": 64, "validation_prompts": 32, "test_prompts": 32},
        "evaluation": {"every": 12, "samples": 1},
        "checkpoint_every": 1,
    },
    "reference": {"strategy": {"preset": "dapo", "group_size": 4}},
    "candidates": [{"strategy": "v05"}],
    "seeds": [0],
    "search": {"trials": 1},
}


@contextmanager
def home() -> Iterator[Path]:
    """Make a folder with the tiny model in it for the time of the block."""
    from trainables.models.tiny import ensure_tiny

    model = ensure_tiny(Path(".trimtab/models").resolve())
    with tempfile.TemporaryDirectory(prefix="trimtab-bench-") as folder:
        shutil.copytree(model, Path(folder) / "home" / "models" / model.name)
        yield Path(folder)


def trimtab(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS") if key in os.environ}
    return subprocess.Popen(
        [sys.executable, "-m", "trimtab", *arguments],
        env={**kept, "HOME": str(folder), **environment},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def write(folder: Path, **changes: Any) -> str:
    file = folder / "spec.yaml"
    file.write_text(yaml.safe_dump({**SPEC, "home": str(folder / "home"), **changes}))
    return str(file)


def wait(folder: Path, name: str, what: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """Return the journal of a sweep once `what` is true of it."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        where = folder / "home" / "sweeps" / name
        events = list(Tail(where).read()) if where.is_dir() else []
        if what(events):
            return events
        time.sleep(0.1)
    raise TimeoutError(f"{name} did not come so far")


def step_times(events: list[dict[str, Any]]) -> list[float]:
    return [event["time"] for event in events if event["event"] == "step"]


def measure_submit() -> None:
    """Measure on a cluster of one worker node that is up already, and on a Ray of the sweep's own."""
    with home() as folder:
        spec = write(folder, slots={"count": 1})
        began = time.time()
        own = trimtab(folder, "sweep", spec, "--name", "own")
        first = step_times(wait(folder, "own", lambda events: bool(step_times(events))))[0] - began
        own.terminate()
        own.communicate(timeout=120)
        with NamespaceCluster(
            folder / "nodes", [{}], cpus=2, environment={"OMP_NUM_THREADS": "1"}
        ) as cluster:
            began = time.time()
            asked = trimtab(
                folder, "submit", spec, "--name", "far", "--address", cluster.jobs, "--image", "installed",
                **cluster.client,
            )  # fmt: skip
            said, _ = asked.communicate(timeout=120)
            if asked.returncode:
                raise RuntimeError(said)
            sent = time.time() - began
            far = step_times(wait(folder, "far", lambda events: bool(step_times(events))))[0] - began
    print(
        f"submit: job accepted after {sent:.1f} s, first step after {far:.1f} s; on a Ray of its own "
        f"{first:.1f} s ({far / first:.2f} x)",
        flush=True,
    )


class NoOpLearner:
    """Serves leases of a broker with steps that take no time."""

    def __init__(self, name: str, broker: Any) -> None:
        self._name, self._broker = name, broker

    def register(self) -> int:
        import ray

        return int(ray.get(self._broker.register.remote(self._name)))

    def serve(self, generation: int) -> None:
        import ray

        from trainables.worker.outcome import End

        while True:
            job = ray.get(self._broker.next.remote(self._name, generation))
            if job == "quit":
                return
            if job == "wait":
                continue
            for step in range(STEPS):
                event = {"event": "step", "seed": 0, "step": step, "metrics": {"loss": 0.0}}
                ray.get(self._broker.push.remote(job["token"], event))
            ray.get(self._broker.finish.remote(job["token"], End("finished")))


def measure_nodes() -> None:
    """Measure the steps per second over all nodes, from the first step to the last."""
    base = 0.0
    for count in (1, 2, 4):
        with tempfile.TemporaryDirectory(prefix="trimtab-bench-") as text:
            folder = Path(text)
            offers = [{f"place{k}": 1.0} for k in range(count)]
            with NamespaceCluster(folder / "nodes", offers) as cluster:
                # A Ray driver must run on a node.
                driver = cluster.inside(
                    "head", sys.executable, "-m", "benchmarks.cluster", "--part", "drive", "--folder", text
                )
                environment = {**cluster.environment_of("head"), "RAY_ADDRESS": cluster.head}
                subprocess.run([*driver, "--nodes", str(count)], env=environment, check=True, timeout=300)
            times = step_times(list(Tail(folder).read()))
        if len(times) != count * STEPS:
            raise RuntimeError(f"{len(times)} steps instead of {count * STEPS}")
        rate = len(times) / (max(times) - min(times))
        base = base or rate
        print(f"nodes: {count} no-op learners: {rate:7.0f} steps/s ({rate / base:.2f} x one)", flush=True)


def drive(folder: Path, count: int) -> None:
    """Run one lease for the no-op learner of each node, all at the same time."""
    import ray

    from trimtab.slots.broker import Broker

    prepare_ray_auth(create=False)
    ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    broker = ray.remote(Broker).options(num_cpus=0, max_concurrency=1000).remote(str(folder))
    learners = [
        ray.remote(NoOpLearner).options(num_cpus=0, resources={f"place{k}": 0.1}).remote(f"s{k}", broker)
        for k in range(count)
    ]
    generations = ray.get([learner.register.remote() for learner in learners])
    pairs = zip(learners, generations, strict=True)
    serving = [learner.serve.remote(generation) for learner, generation in pairs]
    tokens = ray.get([broker.submit.remote(f"t{k}", {"seeds": [0]}) for k in range(count)])
    for token in tokens:
        cursor, end = 0, None
        while end is None:
            events, end = ray.get(broker.poll.remote(token, cursor))
            cursor += len(events)
    ray.get(broker.close.remote())
    ray.get(serving)
    ray.shutdown()


def measure_loss() -> None:
    """Power off the engine's node while a run is in the middle of its steps."""
    places = {"count": 1, "learner_resource": "learner", "engine_resource": "engine"}
    with home() as folder:
        spec = write(folder, slots=places, trial={**SPEC["trial"], "steps": 40})
        workers = [{"learner": 1.0}, {"engine": 1.0}, {"engine": 1.0}]
        with NamespaceCluster(folder / "nodes", workers, environment={"OMP_NUM_THREADS": "1"}) as cluster:
            asked = trimtab(
                folder, "submit", spec, "--name", "loss", "--address", cluster.jobs, "--image", "installed",
                **cluster.client,
            )  # fmt: skip
            said, _ = asked.communicate(timeout=120)
            if asked.returncode:
                raise RuntimeError(said)
            wait(folder, "loss", lambda events: len(step_times(events)) >= 5)
            node = next(n for n in ("worker1", "worker2") if holds_engine(cluster, n))
            lost = time.time()
            cluster.kill(node)
            after = wait(folder, "loss", lambda events: any(t > lost + 1 for t in step_times(events)))
    seconds = min(t for t in step_times(after) if t > lost + 1) - lost
    print(f"loss: next step {seconds:.1f} s after the node was lost", flush=True)


def holds_engine(cluster: LocalCluster, node: str) -> bool:
    return any(
        b"ray::EngineActor" in Path(f"/proc/{pid}/cmdline").read_bytes()
        for pid in cluster.pids(node)
        if Path(f"/proc/{pid}").exists()
    )


def measure_study() -> None:
    """Do what a trial of a sweep does: ask, report five intermediate values, tell."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    password = secrets.token_hex(12)
    with postgres("127.0.0.1", password, ("optuna",), port=55432) as port:
        url = f"postgresql+psycopg://mlflow:{password}@127.0.0.1:{port}/optuna"
        alone = study_rate(url, "alone", 1, TRIALS // 4)
        crowd = study_rate(url, "crowd", WORKERS, TRIALS)
    print(
        f"study: {WORKERS} workers {crowd:.1f} trials/s, one worker {alone:.1f} ({crowd / alone:.2f} x)",
        flush=True,
    )


def study_rate(url: str, name: str, workers: int, trials: int) -> float:
    import optuna

    def open_study() -> optuna.Study:
        engine = {"pool_size": 1, "max_overflow": 1}
        storage = optuna.storages.RDBStorage(url, engine_kwargs=engine)
        sampler = optuna.samplers.TPESampler(seed=0, constant_liar=True)
        return optuna.create_study(
            study_name=name, storage=storage, sampler=sampler, direction="maximize", load_if_exists=True
        )

    open_study()
    studies = [open_study() for _ in range(workers)]

    def work(study: optuna.Study) -> None:
        for _ in range(trials // workers):
            trial = study.ask()
            x = trial.suggest_float("x", 0, 1)
            for rung in range(5):
                trial.report(x, rung)
            study.tell(trial, x)

    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, studies))
    seconds = time.perf_counter() - began
    told = [trial.state.name for trial in open_study().trials]
    if told != ["COMPLETE"] * trials:
        raise RuntimeError(f"{len(told)} trials, not all complete")
    return trials / seconds


PARTS = {"study": measure_study, "nodes": measure_nodes, "submit": measure_submit, "loss": measure_loss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--part", choices=[*PARTS, "all", "drive"], default="all")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--nodes", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    wanted = options.part
    if wanted == "drive":
        drive(options.folder, options.nodes)
        return
    for name, part in PARTS.items():
        if wanted in (name, "all"):
            part()


if __name__ == "__main__":
    main()
