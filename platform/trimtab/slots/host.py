"""Starting and ending slots. Runs in the driver; what it starts are actors."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass
from typing import Any

import ray

from trainables.config import Backend, EngineConfig, LearnerConfig
from trainables.worker.serve import SlotSetup, learner_environment, serve

REBUILDS = 3
"""How often one half of a slot (worker group, engine) may be restarted before the whole slot is replaced."""
REPLACEMENTS = 3
"""Replacements in a row, none of which finished a lease, after which the slot counts as failed. With
`REBUILDS` each, that is four times what one trial may use up (`client.LEASES`)."""


COLD, WARM = 1, 1000
"""Leases that a slot's processes serve before fresh ones take their place."""


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
    leases: int = WARM
    """Leases after which a slot's processes are replaced; `COLD` = every lease gets fresh ones."""

    @property
    def backend(self) -> Backend | None:
        """What weights are broadcast over, if they are."""
        if self.engine.weight_sync != "broadcast":
            return None
        return "nccl" if self.learner_gpus and self.engine_gpus else "gloo"


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
                # A name of its own: Ray Train would take a run of the same name up again.
                name=f"{setup.name}-{uuid.uuid4().hex[:8]}",
                storage_path=spec.storage,
                failure_config=FailureConfig(max_failures=REBUILDS),
                worker_runtime_env={"env_vars": learner_environment()},
            ),
        )
        trainer.fit()


@dataclass
class _Processes:
    """The actors of one slot: its engines and the host of its Ray Train run."""

    engines: list[Any]
    host: Any
    running: Any
    """The host's run: ends when the slot has gone home, raises when Ray Train gives up."""

    def kill(self) -> None:
        for actor in (self.host, *self.engines):
            ray.kill(actor)


class Slots:
    """The slots of a sweep. Made outside any trial, so that no trial's placement group captures them.

    A thread for each slot watches it and replaces its processes when they have served their leases or died.
    """

    def __init__(self, spec: SlotSpec, count: int, broker: Any) -> None:
        self._spec = spec
        self._broker = broker
        self._names = [f"slot-{k}" for k in range(count)]
        self._processes: dict[str, _Processes] = {}
        self._failed: dict[str, str] = {}
        self._closing = False
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    @property
    def engines(self) -> list[Any]:
        """Handles of all engine actors, slot by slot."""
        with self._lock:
            return [engine for name in self._names for engine in self._processes[name].engines]

    @property
    def failed(self) -> bool:
        """True once every slot has failed for good."""
        return len(self._failed) == len(self._names)

    def start(self) -> None:
        """Start all slots; returns before they are ready. Trials may queue at once."""
        ray.get(self._broker.expect.remote(self._names))
        for name in self._names:
            self._start(name)
            thread = threading.Thread(target=self._keep, args=(name,), name=f"keep-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self, timeout_s: float) -> None:
        """End every slot: ask first, then kill what has not gone. Touches only what `start` made."""
        with self._lock:
            self._closing = True
            running = [processes.running for processes in self._processes.values()]
        ray.get(self._broker.close.remote())
        if running:
            ray.wait(running, num_returns=len(running), timeout=timeout_s)
        with self._lock:
            for processes in self._processes.values():
                processes.kill()
            self._processes.clear()
        for thread in self._threads:
            thread.join(timeout_s)

    def _keep(self, name: str) -> None:
        """Watch a slot for as long as the sweep lives."""
        in_vain = 0
        while True:
            try:
                why = self._wait(name)
                done = ray.get(self._broker.lost.remote(name, why or "replaced by fresh processes"))
                in_vain = 0 if done == "useful" or why is None else in_vain + 1
                if in_vain > REPLACEMENTS or done == "never up":
                    self._give_up(name, why or "it ended before it was up")
                    return
                if not self._replace(name):
                    return
            except Exception as error:  # noqa: BLE001  # whatever it is, trials must not wait for it for ever
                self._give_up(name, _cause(error))
                return

    def _wait(self, name: str) -> str | None:
        """Return when a slot's processes have ended, and of what; None: they went home."""
        with self._lock:
            if self._closing:
                return None
            processes = self._processes[name]
        try:
            # An engine that cannot start would leave its learner waiting.
            ray.get([engine.ready.remote() for engine in processes.engines])
            ray.get(processes.running)
        except ray.exceptions.RayError as error:
            return _cause(error)
        return None

    def _replace(self, name: str) -> bool:
        """New processes for a slot. False: the sweep is ending."""
        with self._lock:
            if self._closing:
                return False
            self._processes.pop(name).kill()
        self._start(name)
        return True

    def _give_up(self, name: str, why: str) -> None:
        with self._lock:
            if self._closing:
                return
            self._failed[name] = why
        self._broker.abandon.remote(name, f"{name} failed: {why}")

    def _start(self, name: str) -> None:
        with self._lock:
            if self._closing:
                return
            engines = [self._start_engine() for _ in range(self._spec.engine.count)]
            setup = SlotSetup(
                name=name,
                model=self._spec.model,
                broker=self._broker,
                engines=engines,
                engine=self._spec.engine,
                backend=self._spec.backend,
                threads=max(1, int(self._spec.learner_cpus)),
                command_timeout_s=self._spec.learner.command_timeout_s,
                leases=self._spec.leases,
            )
            host = ray.remote(SlotHost).options(num_cpus=0, scheduling_strategy=beside_driver()).remote()
            self._processes[name] = _Processes(engines, host, host.run.remote(self._spec, setup))

    def _start_engine(self) -> Any:
        from trainables.rollouts.actor import EngineActor

        spec = self._spec
        actor = ray.remote(EngineActor).options(
            num_cpus=spec.engine_cpus,
            num_gpus=spec.engine_gpus,
            resources=_place(spec.engine_resource),
            max_restarts=REBUILDS,
            max_task_retries=0,
            runtime_env={"env_vars": engine_environment(spec.engine_cpus)},
        )
        return actor.remote(spec.model, spec.engine, spec.learner.dtype, spec.backend)


def beside_driver() -> Any:
    """Where the sweep's own actors live: with the driver; the loss of another node takes none of them."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _cause(error: Exception) -> str:
    inner = getattr(error, "cause", None) or error
    lines = str(inner).strip().splitlines()
    return f"{type(inner).__name__}: {lines[-1] if lines else 'no message'}"


def _place(resource: str | None) -> dict[str, float]:
    """Claim a trace of a node's custom resource: it says where, not how much (as `placement.MARK`)."""
    return {resource: 0.001} if resource else {}


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
