"""Measure the seconds of each part of one warm RL step, and of TRL's GRPOTrainer with the same work.

    python -m benchmarks.rl_step --workload short long mixed --steps 20

Ours is the real loop (`trainables.loop.rlvr.train_step`) on real parts: a vLLM engine in its own process, and
the DeepSpeed learner (ZeRO 1) in this one. Both train every rollout, so that the work is equal;
`benchmarks.trl_step` lists what is not equal. The printed ratios come from one run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import WORKLOADS, Workload
from trainables.config import EngineConfig, LearnerConfig
from trainables.strategies.batch import Batch, Decision, Needs, Pool, Requests, RolloutBudget, Scores, Stats
from trainables.trial import TrialConfig

PARTS = ("generate", "verify", "logprobs", "update", "sync", "other")

RANK = {"DS_ACCELERATOR": "cpu", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
"""Variables that Ray Train sets for its workers. TRL's process must not see them."""


class EveryRollout:
    """A strategy that draws a group of each of the first prompts and trains all with advantage +1 or -1."""

    def __init__(self, group: int) -> None:
        self._group = group

    def needs(self) -> Needs:
        return Needs()

    def select(self, pool: Pool, rollout_budget: RolloutBudget, wanted: int | None = None) -> Requests:
        return Requests.samples(np.sort(pool.prompt_C)[: rollout_budget.rollouts // self._group], self._group)

    def decide(self, batch: Batch, rollout_budget: RolloutBudget) -> Decision:
        return Decision()

    def score(self, batch: Batch) -> Scores:
        sign = np.where(np.arange(batch.rollouts) % 2, 1.0, -1.0)
        return Scores(advantage_N=sign, weight_N=np.ones(batch.rollouts))

    def observe(self, batch: Batch, stats: Stats) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class GivenLengths:
    """An engine group whose rollouts have the workload's lengths. Probes and evaluation pass through."""

    def __init__(self, engines: Any, workload: Workload) -> None:
        self._engines, self._workload, self._step = engines, workload, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engines, name)

    def draw(self, request: Any) -> Any:
        lengths = self._workload.lengths(self._step)
        self._step += 1
        if lengths is not None:
            given = np.array(lengths, dtype=np.int64)
            request = replace(request, min_tokens_R=given, max_tokens_R=given)
        return self._engines.draw(request)


def our_step(model: Path, workload: Workload, steps: int, warmup: int = 3) -> dict[str, float]:
    """Return the median seconds of each part and of the whole step."""
    import ray

    from trainables.learner.group import LearnerGroup
    from trainables.loop.lease import Lease
    from trainables.loop.rlvr import train_step
    from trainables.loop.state import Run
    from trainables.loop.sync import sync_weights
    from trainables.rollouts.actor import EngineActor
    from trainables.rollouts.group import EngineGroup
    from trainables.verifier.verifier import Verifier
    from trimtab.slots.host import engine_environment

    config = _config(model, workload, steps + warmup)
    actor = (
        ray.remote(EngineActor)
        .options(num_cpus=0, runtime_env={"env_vars": engine_environment(1)})
        .remote(str(model), config.engine)
    )
    ray.get(actor.ready.remote())
    seen: list[dict[str, float]] = []

    def report(event: str, **fields: Any) -> bool:
        if event == "step":
            seen.append(fields["metrics"])
        return True

    lease = Lease(
        model=str(model),
        tokenizer=_tokenizer(model),
        learner=LearnerGroup(_learner()),
        engines=GivenLengths(EngineGroup([actor]), workload),  # type: ignore[arg-type]
        verifier=lambda judge, settings: Verifier(judge, settings.processes, settings.timeout_s),
        report=report,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Run.start(lease, config, 0, Path(folder))
        sync_weights(run)
        for _ in range(steps + warmup):
            train_step(run)
        run.verifier.close()
    lease.learner.close()
    ray.kill(actor)
    return _medians(seen[warmup:])


def _medians(steps: list[dict[str, float]]) -> dict[str, float]:
    found = {part: statistics.median(m.get(f"seconds/{part}", 0.0) for m in steps) for part in PARTS[:-1]}
    found["total"] = statistics.median(m["seconds/step"] for m in steps)
    found["other"] = found["total"] - sum(found.values()) + found["total"]
    found["tokens"] = statistics.median(m["trained_tokens"] for m in steps)
    return found


def _config(model: Path, workload: Workload, steps: int) -> TrialConfig:
    strategy = {"custom": "benchmarks.rl_step:EveryRollout", "params": {"group": workload.group}}
    return TrialConfig.model_validate(
        {
            "model": str(model),
            "strategy": strategy,
            "steps": steps,
            "rollouts_per_step": workload.rollouts,
            "task": {"train_prompts": max(workload.prompts, 512)},
            "sampling": {"max_tokens": workload.longest},
            "engine": EngineConfig(max_model_len=96, max_num_seqs=512),
            "learner": LearnerConfig(lr=1e-6),
            # Sampling is forced to given lengths: the sampler's distribution is not the policy's.
            "loss": {"max_mismatch_kl": None},
        }
    )


def _tokenizer(model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


def _learner() -> Any:
    import torch

    from trainables.learner.rank import Learner

    return Learner(0, 1, torch.device("cpu"))


def trl_step(workload: str, steps: int, cache: Path) -> dict[str, float]:
    """Measure TRL in a process of its own, so that neither stack patches the other."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.trl_step", "--workload", workload),
            *("--steps", str(steps), "--cache", str(cache)),
        ],
        env={key: value for key, value in os.environ.items() if key not in RANK},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])["trl"]
    return found


def show(workload: Workload, ours: dict[str, float], theirs: dict[str, float]) -> None:
    print(f"\n{workload.name}: {workload.rollouts} rollouts, {ours['tokens']:.0f} response tokens")
    print(
        "  trimtab  "
        + "  ".join(f"{part} {ours[part]:.3f}" for part in PARTS)
        + f"  total {ours['total']:.3f} s"
    )
    parts = [k for k in theirs if k not in ("total", "tokens")]
    print(
        "  TRL      "
        + "  ".join(f"{part} {theirs[part]:.3f}" for part in parts)
        + f"  total {theirs['total']:.3f} s"
    )
    print(
        f"  ratio TRL / trimtab: {theirs['total'] / ours['total']:.2f} (above 1: trimtab is faster)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cache", type=Path, default=Path(".trimtab/models"))
    args = parser.parse_args()
    os.environ.update(RANK)
    import ray
    import torch.distributed as dist

    from trainables.models.tiny import ensure_tiny

    model = ensure_tiny(args.cache)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    for name in args.workload:
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
        )
        ours = our_step(model, WORKLOADS[name], args.steps)
        ray.shutdown()
        print(json.dumps({"workload": name, "trimtab": ours}), flush=True)
        show(WORKLOADS[name], ours, trl_step(name, args.steps, args.cache))


if __name__ == "__main__":
    main()
