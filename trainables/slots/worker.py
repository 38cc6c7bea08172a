"""What runs on a slot's learner workers: a Ray Train function that serves one lease after another."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from trainables import checkpoints
from trainables.config import TrialConfig, VerifierConfig
from trainables.lease import Lease, Report
from trimtab.errors import LearnerLost

if TYPE_CHECKING:
    from trainables.learner.group import LearnerGroup
    from trainables.tasks.verifier import VerifierPool

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlotSetup:
    """What a slot is started with; a lease can change none of it."""

    name: str
    model: str
    """Resolved: a local directory or a hub id."""
    broker: Any
    """Handle of the broker actor."""
    engines: list[Any]
    """Handles of the engine actors."""
    threads: int
    """CPU threads of each learner worker."""


def serve(loop_config: dict[str, Any]) -> None:
    """The Ray Train loop: rank 0 runs leases, the other ranks follow its commands."""
    import ray.train.torch
    import torch
    import torch.distributed as dist

    from trainables.learner.group import LearnerGroup, follow
    from trainables.learner.worker import Learner

    setup: SlotSetup = loop_config["setup"]
    torch.set_num_threads(setup.threads)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    # Commands travel as Python objects: gloo, whatever the tensors' own backend.
    control = dist.new_group(backend="gloo") if world > 1 else None
    learner = Learner(rank, world, device)
    if rank > 0:
        follow(learner, control)
        return
    group = LearnerGroup(learner, control)
    try:
        _serve_leases(setup, group)
    finally:
        group.dismiss()


def _serve_leases(setup: SlotSetup, group: LearnerGroup) -> None:
    from transformers import AutoTokenizer

    from trainables.rollouts.pool import EnginePool

    tokenizer = AutoTokenizer.from_pretrained(setup.model)
    engines = EnginePool(setup.engines)
    # A learner restarts faster than an engine: a lease taken before its engine is back would be lost at once.
    engines.wait()
    verifiers = _Verifiers()
    generation = ray.get(setup.broker.register.remote(setup.name))
    try:
        while True:
            job = ray.get(setup.broker.next.remote(setup.name, generation))
            if job == "quit":
                return
            if job == "wait":
                group.idle()
                continue
            _serve_one(setup, job, partial(Lease, setup.model, tokenizer, group, engines, verifiers.get))
    finally:
        verifiers.close()


def _serve_one(setup: SlotSetup, job: dict[str, Any], lend: Callable[[Report], Lease]) -> None:
    """One lease: the seeds of one configuration, one after another."""
    from trainables.rlvr import run_trial

    token = job["token"]
    config = TrialConfig.model_validate(job["config"])
    outcome, error = "finished", None
    for seed in job["seeds"]:
        report = _Reporter(setup.broker, token, seed)
        output = Path(job["output"]) / f"seed-{seed}"
        try:
            outcome = run_trial(lend(report), config, seed, output)
        except (ray.exceptions.RayActorError, LearnerLost) as lost:
            # An engine or a learner rank died: this slot must be rebuilt before it can serve anyone.
            report("run_finished", status="failed", error=str(lost), traceback=traceback.format_exc())
            ray.get(setup.broker.finish.remote(token, "lost", f"slot {setup.name}: {lost}"))
            raise
        except (
            Exception
        ) as failure:  # the border of the trial: whatever it raised is its own end, not the slot's
            outcome, error = "failed", f"{type(failure).__name__}: {failure}"
            report("run_finished", status="failed", error=error, traceback=traceback.format_exc())
            log.exception("seed %s failed", seed)
            break
        report("run_finished", status=outcome, error=None, checkpoint=_newest(output))
        if outcome == "stopped":
            break
    ray.get(setup.broker.finish.remote(token, outcome, error))


def _newest(output: Path) -> str | None:
    found = checkpoints.latest(output)
    return str(found) if found else None


class _Reporter:
    """Sends a run's events to the broker. Stages are only shown, so nobody waits for them."""

    def __init__(self, broker: Any, token: int, seed: int) -> None:
        self._broker, self._token, self._seed = broker, token, seed

    def __call__(self, event: str, **fields: Any) -> bool:
        pending = self._broker.push.remote(self._token, {"event": event, "seed": self._seed, **fields})
        return True if event == "stage" else bool(ray.get(pending))


class _Verifiers:
    """Verifier pools by what they were made for. One is kept: leases of a sweep share judge and settings."""

    def __init__(self) -> None:
        self._key: tuple[str, VerifierConfig] | None = None
        self._pool: VerifierPool | None = None

    def get(self, judge: str, config: VerifierConfig) -> VerifierPool:
        from trainables.tasks.verifier import VerifierPool

        if self._pool is None or self._pool.closed or self._key != (judge, config):
            self.close()
            self._key = (judge, config)
            self._pool = VerifierPool(judge, config.processes, config.timeout_s)
        return self._pool

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
        self._pool = None


def learner_environment() -> dict[str, str]:
    """Variables that must be set before torch and DeepSpeed are imported."""
    variables = {"TOKENIZERS_PARALLELISM": "false", "TORCH_COMPILE_DISABLE": "1"}
    if not os.path.exists("/dev/nvidiactl"):
        variables["DS_ACCELERATOR"] = "cpu"
    return variables
