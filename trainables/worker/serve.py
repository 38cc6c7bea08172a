"""What runs on a slot's learner workers: a Ray Train function that serves one lease after another."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from trainables.config import Backend, EngineConfig, VerifierConfig
from trainables.errors import LearnerLost
from trainables.learner import checkpoints
from trainables.loop.lease import Lease, Report
from trainables.trial import TrialConfig
from trainables.worker.failures import Failure, classify
from trainables.worker.outcome import End
from trainables.worker.proof import Growth, Proof, rss_mb

if TYPE_CHECKING:
    from trainables.learner.group import LearnerGroup
    from trainables.rollouts.group import EngineGroup
    from trainables.strategies.batch import FloatArray
    from trainables.verifier.verifier import Verifier

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlotSetup:
    """What a slot is started with. No lease can change it."""

    name: str
    model: str
    """Resolved: a local directory or a hub id."""
    broker: Any
    """Handle of the broker actor."""
    engines: list[Any]
    """Handles of the engine actors."""
    engine: EngineConfig
    backend: Backend | None
    """What weights are broadcast over; None = they are not broadcast."""
    threads: int
    """CPU threads of each learner worker."""
    command_timeout_s: float
    """`learner.command_timeout_s`."""
    leases: int = 0
    """Leases after which the slot ends, so that fresh processes take its place; 0 = never."""


def serve(loop_config: dict[str, Any]) -> None:
    """Run one learner worker, as Ray Train's loop: rank 0 serves leases, other ranks follow its commands."""
    import ray.train.torch
    import torch

    from trainables.learner.group import LearnerGroup, follow, open_control
    from trainables.learner.rank import Learner

    setup: SlotSetup = loop_config["setup"]
    torch.set_num_threads(setup.threads)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    control = open_control(world, setup.command_timeout_s)
    learner = Learner(rank, world, device)
    _keep_libraries_out_of_collections()
    if rank > 0:
        follow(learner, control)
        return
    group = LearnerGroup(learner, control)
    try:
        _serve_leases(setup, group)
    finally:
        group.dismiss()


def _keep_libraries_out_of_collections() -> None:
    """Exclude all objects that exist now from garbage collection.

    A full collection visits every object, and most belong to libraries: it took 0.7 of the 1.4 seconds
    between two leases. Call this before the first lease, because frozen objects are never freed.
    """
    gc.collect()
    gc.freeze()


def _serve_leases(setup: SlotSetup, group: LearnerGroup) -> None:
    from transformers import AutoTokenizer

    from trainables.rollouts.group import EngineGroup
    from trainables.weight_sync.transport import build_transport

    tokenizer = AutoTokenizer.from_pretrained(setup.model)
    engines = EngineGroup(setup.engines, build_transport(setup.backend, setup.engine.tensor_parallel))
    verifier = _KeptVerifier()
    served = 0
    proof, growth = Proof(), Growth()
    base_answers: dict[str, FloatArray] = {}

    def lend(report: Report) -> Lease:
        def proved(lease: Lease) -> None:
            checksum = proof.check(setup.model, group, engines, setup.engine.sync_timeout_s)
            report("lease", slot=setup.name, lease=served + 1, checksum=checksum)

        return Lease(setup.model, tokenizer, group, engines, verifier.get, report, base_answers, proved)

    try:
        generation = _register(setup, engines)
        while not setup.leases or served < setup.leases:
            job = ray.get(setup.broker.next.remote(setup.name, generation))
            if job == "quit":
                return
            if job == "wait":
                group.idle()
                continue
            failure = _serve_one(setup, job, lend)
            served += 1
            if group.broken:
                # Ray Train replaces all ranks when this one raises.
                raise LearnerLost(failure.message if failure else "learner workers are out of step")
            if failure and failure.unclean:
                return
            if failure and failure.breaks_slot:
                generation = _register(setup, engines)
            elif growth.too_much(rss_mb() + engines.rss_mb()):
                return
    finally:
        verifier.close()


def _register(setup: SlotSetup, engines: EngineGroup) -> int:
    """Tell the broker that the slot is ready. Return the slot's generation.

    A learner restarts faster than an engine. A lease that is taken before its engine is back would be lost
    at once, so wait for the engines first.
    """
    engines.wait()
    generation: int = ray.get(setup.broker.register.remote(setup.name))
    return generation


def _serve_one(setup: SlotSetup, job: dict[str, Any], lend: Callable[[Report], Lease]) -> Failure | None:
    """Serve one lease: seeds of one configuration, one after another. Return the failure that ended it."""
    from trainables.loop.rlvr import run_trial

    token = job["token"]
    config = TrialConfig.model_validate(job["config"])

    def finish(end: End) -> None:
        ray.get(setup.broker.finish.remote(setup.name, token, end))

    while (seed := ray.get(setup.broker.take.remote(token))) is not None:
        report = _Reporter(setup.broker, token, seed)
        output = Path(job["output"]) / f"seed-{seed}"
        try:
            status = run_trial(lend(report), config, seed, output)
        except Exception as error:  # the border of the trial: an error ends the trial, not the slot
            failure = classify(error)
            log.warning("seed %s failed (%s)", seed, failure.cause, exc_info=error)
            finish(_end_of(failure, report))
            return failure
        if status == "stopped":
            if ray.get(setup.broker.cancelled.remote(token)):
                report("run_finished", status=status, error=None, checkpoint=_newest(output))
            finish(End("stopped"))
            return None
        report("run_finished", status="finished", error=None, checkpoint=_newest(output))
    finish(End("finished"))
    return None


def _end_of(failure: Failure, report: Report) -> End:
    """Decide how the lease ends. Another lease continues a lost one; any other failure ends the run."""
    if failure.cause == "lost":
        return End("lost", failure.message, "lost")
    report(
        "run_finished",
        status="failed",
        error=failure.message,
        traceback=failure.traceback,
        cause=failure.cause,
        checkpoint=None,
    )
    return End("failed", failure.message, failure.cause)


def _newest(output: Path) -> str | None:
    found = checkpoints.latest(output)
    return str(found) if found else None


class _Reporter:
    """Sends a run's events to the broker. Stages are for display only, so their delivery is not awaited."""

    def __init__(self, broker: Any, token: int, seed: int) -> None:
        self._broker, self._token, self._seed = broker, token, seed

    def __call__(self, event: str, **fields: Any) -> bool:
        pending = self._broker.push.remote(self._token, {"event": event, "seed": self._seed, **fields})
        return True if event == "stage" else bool(ray.get(pending))


class _KeptVerifier:
    """Keeps the last verifier for the next lease: all leases of a sweep share judge and settings."""

    def __init__(self) -> None:
        self._key: tuple[str, VerifierConfig] | None = None
        self._verifier: Verifier | None = None

    def get(self, judge: str, config: VerifierConfig) -> Verifier:
        """Return an open verifier for the judge: the kept one if it was made for the same settings."""
        from trainables.verifier.verifier import Verifier

        if self._verifier is None or self._verifier.closed or self._key != (judge, config):
            self.close()
            self._key = (judge, config)
            self._verifier = Verifier(judge, config.processes, config.timeout_s)
        return self._verifier

    def close(self) -> None:
        """Close the kept verifier, if any."""
        if self._verifier is not None:
            self._verifier.close()
        self._verifier = None


def learner_environment() -> dict[str, str]:
    """Return the variables that must be set before torch and DeepSpeed are imported."""
    variables = {"TOKENIZERS_PARALLELISM": "false", "TORCH_COMPILE_DISABLE": "1"}
    if not os.path.exists("/dev/nvidiactl"):
        variables["DS_ACCELERATOR"] = "cpu"
    return variables
