"""Start, watch, replace and end the sweep's slots. `Slots` runs in the driver; a slot consists of actors."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from trainables.config import Backend, EngineConfig, LearnerConfig
from trainables.worker.serve import SlotSetup, learner_environment, serve
from trimtab.planning.placement import MARK

REBUILDS = 3
"""Number of restarts of a slot's worker group, or of one engine, before the whole slot is replaced."""
REPLACEMENTS = 3
"""Number of replacements in a row without a finished lease after which a slot counts as failed. With
`REBUILDS` restarts each, that is four times what one trial can use up (`client.LEASES`)."""


ENGINES = {"vllm": "vLLM", "transformers": "transformers"}
"""What each kind of engine is called."""
COLD, WARM = 1, 1000
"""Number of leases that a slot's processes serve before fresh processes replace them."""


@dataclass(frozen=True)
class SlotSpec:
    """What a slot consists of. All slots of a sweep have the same."""

    model: str
    learner: LearnerConfig
    engine: EngineConfig
    learner_cpus: float
    engine_cpus: float
    learner_gpus: float = 0.0
    engine_gpus: float = 0.0
    learner_resource: str | None = None
    """Custom Ray resource of the nodes for learners; None = any node."""
    engine_resource: str | None = None
    """Custom Ray resource of the nodes for engines; None = any node."""
    storage: str = ""
    """Folder for Ray Train's own state."""
    leases: int = WARM
    """Number of leases after which a slot's processes are replaced; `COLD` = after every lease."""

    @property
    def backend(self) -> Backend | None:
        """Return the backend that broadcasts weights; None if they are not broadcast."""
        if self.engine.weight_sync != "broadcast":
            return None
        return "nccl" if self.learner_gpus and self.engine_gpus else "gloo"


class SlotHost:
    """The actor that holds a slot's Ray Train run, and nothing else."""

    def run(self, spec: SlotSpec, setup: SlotSetup) -> None:
        """Serve leases until the broker says quit.

        Raises:
            Exception: Whatever Ray Train raises when it gives up.
        """
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        resources = {"CPU": spec.learner_cpus, **_place(spec.learner_resource)}
        if spec.learner_gpus:
            resources["GPU"] = spec.learner_gpus
        trainer = TorchTrainer(
            serve,
            train_loop_config={"setup": setup},
            # How long ranks wait for each other within a step. Gloo's default is half an hour.
            torch_config=TorchConfig(timeout_s=spec.learner.collective_timeout_s),
            scaling_config=ScalingConfig(
                num_workers=spec.learner.workers,
                use_gpu=spec.learner_gpus > 0,
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                # A fresh name, because Ray Train would resume an earlier run of the same name.
                name=f"{setup.name}-{uuid.uuid4().hex[:8]}",
                storage_path=spec.storage,
                failure_config=FailureConfig(max_failures=REBUILDS),
                worker_runtime_env={"env_vars": learner_environment()},
            ),
        )
        trainer.fit()


@dataclass
class _Processes:
    """The actors of one slot: its engines, and the host of its Ray Train run."""

    engines: list[Any]
    host: Any
    running: Any
    """Reference to the host's run. It returns when the slot has quit, and raises if Ray Train gives up."""

    def kill(self) -> None:
        """Kill all actors of the slot."""
        for actor in (self.host, *self.engines):
            ray.kill(actor)


class Slots:
    """The slots of a sweep. They are started outside any trial, so no trial's placement group captures them.

    One thread per slot watches it, and replaces its processes when they died or have served their leases.
    """

    def __init__(
        self, spec: SlotSpec, count: int, broker: Any, say: Callable[[str], None] = lambda doing: None
    ) -> None:
        """Prepare `count` slots; `say` is told what they wait for while they start."""
        self._spec = spec
        self._say = say
        self._loading: dict[str, str] = {}
        """What each slot that is not up yet is doing."""
        self._broker = broker
        self._names = [f"slot-{k}" for k in range(count)]
        self._processes: dict[str, _Processes] = {}
        self._failed: dict[str, str] = {}
        self._closing = False
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    @property
    def engines(self) -> list[Any]:
        """Return the handles of all engine actors, slot by slot."""
        with self._lock:
            return [engine for name in self._names for engine in self._processes[name].engines]

    @property
    def failed(self) -> bool:
        """Return True once every slot has failed and no slot will be replaced."""
        return len(self._failed) == len(self._names)

    def start(self) -> None:
        """Start all slots and return before they are ready. Trials may be queued already."""
        ray.get(self._broker.expect.remote(self._names))
        for name in self._names:
            self._start(name)
            thread = threading.Thread(target=self._keep, args=(name,), name=f"keep-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self, timeout_s: float) -> None:
        """End every slot: ask it to quit, then kill what is left of it after `timeout_s` seconds."""
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
        """Watch a slot, and replace its processes, until the sweep ends or the slot fails."""
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
            except Exception as error:  # noqa: BLE001  # whatever it is, trials must not wait for this slot
                self._give_up(name, _cause(error))
                return

    def _wait(self, name: str) -> str | None:
        """Wait until a slot's processes have ended, and return why; None if they quit as asked."""
        with self._lock:
            if self._closing:
                return None
            processes = self._processes[name]
        try:
            # An engine that cannot start would leave its learner waiting.
            ray.get([engine.ready.remote() for engine in processes.engines])
            self._tell(name, "starting DeepSpeed")
            ray.get(processes.running)
        except ray.exceptions.RayError as error:
            return _cause(error)
        return None

    def _replace(self, name: str) -> bool:
        """Start new processes for a slot. Return False if the sweep is ending."""
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
        self._tell(name, f"loading {ENGINES[self._spec.engine.kind]}")
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

    def _tell(self, name: str, doing: str) -> None:
        """Say what every slot is doing: `loading vLLM in slot-0 (1 of 2), starting DeepSpeed in ...`."""
        with self._lock:
            self._loading[name] = doing
            count = len(self._names)
            told = [
                f"{self._loading[one]} in {one} ({place} of {count})"
                for place, one in enumerate(self._names, 1)
                if one in self._loading
            ]
        self._say(", ".join(told))

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
    """Return the scheduling strategy of the sweep's own actors: the driver's node.

    The loss of any other node then leaves them alive.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _cause(error: Exception) -> str:
    inner = getattr(error, "cause", None) or error
    lines = str(inner).strip().splitlines()
    return f"{type(inner).__name__}: {lines[-1] if lines else 'no message'}"


def _place(resource: str | None) -> dict[str, float]:
    """Claim a trace of a node's custom resource, which only marks the place where a process may run."""
    return {resource: MARK} if resource else {}


def engine_environment(cpus: float) -> dict[str, str]:
    """Return the variables that must be set before `trainables.rollouts.vllm_engine` imports vLLM."""
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "OMP_NUM_THREADS": str(max(1, int(cpus))),
        **learner_environment(),
    }
