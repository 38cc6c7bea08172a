"""Starting and ending slots. Runs in the driver; what it starts are actors."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from trainables.config import EngineConfig, LearnerConfig
from trainables.slots.worker import SlotSetup, learner_environment, serve

REBUILDS = 3
"""How often Ray Train may restart a slot's worker group before the slot counts as failed."""


@dataclass(frozen=True)
class SlotSpec:
    """What one slot is made of; the key under which trials share it."""

    model: str
    learner: LearnerConfig
    engine: EngineConfig
    learner_cpus: float
    engine_cpus: float
    learner_gpus: float = 0.0
    engine_gpus: float = 0.0
    learner_resource: str | None = None
    """Custom Ray resource that nodes for learners offer; None = any node."""
    engine_resource: str | None = None
    storage: str = ""
    """Folder for Ray Train's own bookkeeping."""


class SlotHost:
    """Actor in which a slot's Ray Train run lives. It owns nothing but the run."""

    def run(self, spec: SlotSpec, setup: SlotSetup) -> None:
        """Serve leases until the broker says quit. Raises what Ray Train raises when it gives up."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        resources = {"CPU": spec.learner_cpus, **_place(spec.learner_resource)}
        if spec.learner_gpus:
            resources["GPU"] = spec.learner_gpus
        trainer = TorchTrainer(
            serve,
            train_loop_config={"setup": setup},
            # What ranks wait for each other inside a step; gloo's own half hour is a long time to notice.
            torch_config=TorchConfig(timeout_s=spec.learner.collective_timeout_s),
            scaling_config=ScalingConfig(
                num_workers=spec.learner.workers,
                use_gpu=spec.learner_gpus > 0,
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                name=setup.name,
                storage_path=spec.storage,
                failure_config=FailureConfig(max_failures=REBUILDS),
                worker_runtime_env={"env_vars": learner_environment()},
            ),
        )
        trainer.fit()


class Slots:
    """The slots of a sweep. Made outside any trial, so that no trial's placement group captures them."""

    def __init__(self, spec: SlotSpec, count: int, broker: Any) -> None:
        self._spec = spec
        self._broker = broker
        self._names = [f"slot-{k}" for k in range(count)]
        self._engines: list[Any] = []
        self._hosts: list[Any] = []
        self._running: list[Any] = []

    @property
    def engines(self) -> list[Any]:
        """Handles of all engine actors, slot by slot."""
        return list(self._engines)

    def start(self) -> None:
        """Start all slots; returns before they are ready. Trials may queue at once."""
        ray.get(self._broker.expect.remote(self._names))
        for name in self._names:
            engines = [self._start_engine() for _ in range(self._spec.engine.count)]
            self._engines += engines
            self._start_host(name, engines)

    def close(self, timeout_s: float) -> None:
        """End every slot: ask first, then kill what has not gone. Touches only what `start` made."""
        ray.get(self._broker.close.remote())
        if self._running:
            ray.wait(self._running, num_returns=len(self._running), timeout=timeout_s)
        for actor in [*self._hosts, *self._engines]:
            ray.kill(actor)

    def _start_engine(self) -> Any:
        from trainables.rollouts.pool import EngineActor

        spec = self._spec
        actor = ray.remote(EngineActor).options(
            num_cpus=spec.engine_cpus,
            num_gpus=spec.engine_gpus,
            resources=_place(spec.engine_resource),
            max_restarts=REBUILDS,
            max_task_retries=0,
            runtime_env={"env_vars": engine_environment(spec.engine_cpus)},
        )
        return actor.remote(spec.model, spec.engine)

    def _start_host(self, name: str, engines: Sequence[Any]) -> None:
        setup = SlotSetup(
            name=name,
            model=self._spec.model,
            broker=self._broker,
            engines=list(engines),
            threads=max(1, int(self._spec.learner_cpus)),
        )
        host = ray.remote(SlotHost).options(num_cpus=0).remote()
        self._hosts.append(host)
        running = host.run.remote(self._spec, setup)
        self._running.append(running)
        threading.Thread(
            target=_watch, args=(name, running, engines, self._broker), name=f"watch-{name}", daemon=True
        ).start()


def _place(resource: str | None) -> dict[str, float]:
    """A trace of a node's custom resource: it says where, not how much (`trimtab.placement.MARK`)."""
    return {resource: 0.001} if resource else {}


def _watch(name: str, running: Any, engines: Sequence[Any], broker: Any) -> None:
    """Tell the broker when a slot has failed for good; otherwise trials would wait for it forever."""
    try:
        ray.get([engine.ready.remote() for engine in engines])
        ray.get(running)
    except ray.exceptions.RayError as error:
        broker.abandon.remote(name, f"{name} failed: {_cause(error)}")


def _cause(error: Exception) -> str:
    inner = getattr(error, "cause", None) or error
    lines = str(inner).strip().splitlines()
    return f"{type(inner).__name__}: {lines[-1] if lines else 'no message'}"


def engine_environment(cpus: float) -> dict[str, str]:
    """Variables that must be set before vLLM is imported; see `vllm_engine`."""
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "OMP_NUM_THREADS": str(max(1, int(cpus))),
        **learner_environment(),
    }
