"""Train V0.5 under good and deliberately wrong priors on the tiny model: `python -m benchmarks.v0_training`.

Every arm is the preset v05 with another prior, on one warm slot with paired seeds. Printed for each arm, as
mean and standard error over seeds: the prior's error in the first and the last third of training (against
group means, less their noise: `strategy/prior_error`), the share of prompts whose prior the test accepted,
rollouts per prompt (4 is the first round, the rest are extras), and the final accuracy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainables.strategies.batch import Batch, IntArray, Stats
from trainables.strategies.priors.base import Prior
from trainables.strategies.priors.context import ContextPrior
from trainables.strategies.priors.record import Record
from trainables.strategies.scale import UNIT
from trainables.strategies.value_estimate import ValueEstimate


class Constant(Prior):
    """Predicts .9 for every prompt."""

    def predict(self, batch: Batch) -> ValueEstimate:
        return ValueEstimate(mean_P=np.full(batch.prompts, 0.9))


class Inverted(Record):
    """Predicts 1 minus the record's pass rate."""

    def __init__(self) -> None:
        super().__init__(ContextPrior())

    def predict(self, batch: Batch) -> ValueEstimate:
        found = super().predict(batch)
        return ValueEstimate(mean_P=UNIT.high - np.asarray(found.mean_P))


class Stale(Record):
    """Reads the record of `delay` steps ago, or the first record until then."""

    def __init__(self, delay: int = 50, **settings: Any) -> None:
        super().__init__(ContextPrior(**settings))
        self.delay = delay
        self.old: list[dict[str, Any]] = []

    def observe(self, batch: Batch, stats: Stats) -> None:
        super().observe(batch, stats)
        self.old = [*self.old, super().state_dict()][-self.delay :]

    def predict(self, batch: Batch) -> ValueEstimate:
        return self._then(batch, None)

    def predict_prompts(self, prompt_C: IntArray, stratum_C: IntArray) -> ValueEstimate:
        return self._then(None, prompt_C)

    def _then(self, batch: Batch | None, prompt_C: IntArray | None) -> ValueEstimate:
        now = super().state_dict()
        if self.old:
            super().load_state_dict(self.old[0])
        found = super().predict(batch) if batch is not None else self._estimate(np.asarray(prompt_C))
        super().load_state_dict(now)
        return found


ARMS: dict[str, dict[str, Any]] = {
    "context": {"prior": "context"},
    "constant .9": {"prior": {"type": "custom", "path": "benchmarks.v0_training:Constant"}},
    "inverted": {"prior": {"type": "custom", "path": "benchmarks.v0_training:Inverted"}},
    "stale": {"prior": {"type": "custom", "path": "benchmarks.v0_training:Stale"}},
    "pool": {"prior": "pool"},
    "tracker": {"prior": "tracker"},
    "probe, from others": {"prior": "probe", "fusion": {"type": "tested", "leave_one_out": True}},
    "strata": {"prior": "strata"},
    "constant .9, not tested": {
        "prior": {"type": "custom", "path": "benchmarks.v0_training:Constant"},
        "fusion": "prior_only",
        "budget": {"type": "fixed", "group_size": 4},
    },
}


def row(events: list[dict[str, Any]], seed: int) -> list[float]:
    """Return one run's row of the table."""
    mine = [e for e in events if e.get("seed") == seed]
    steps = [e["metrics"] for e in mine if e["event"] == "step"]
    scores = [e["metrics"]["accuracy"] for e in mine if e["event"] == "evaluation"]
    third = max(1, len(steps) // 3)

    def mean(name: str, some: Sequence[dict[str, float]]) -> float:
        return float(np.mean([s[name] for s in some if name in s]))

    return [
        mean("strategy/prior_error", steps[:third]),
        mean("strategy/prior_error", steps[-third:]),
        mean("strategy/prior_accept_rate", steps),
        mean("strategy/rollouts_per_prompt", steps),
        float(scores[-1]),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rollouts", type=int, default=128, help="per step")
    parser.add_argument("--delay", type=int, default=50, help="steps by which the stale prior is late")
    args = parser.parse_args()
    import ray

    from tests.trainables.slot_bench import start_bench
    from trainables.config import EngineConfig, LearnerConfig
    from trainables.models.tiny import ensure_tiny

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        learner = LearnerConfig(lr=5e-5, lr_warmup_steps=5)
        model = str(ensure_tiny(Path(".trimtab/models")))
        bench = start_bench(Path(folder), model, learner, EngineConfig())
        print(
            "| prior | error, first third | error, last third | accepted | rollouts per prompt | accuracy |"
        )
        print("| --- | --- | --- | --- | --- | --- |")
        for arm in args.arms:
            axes = dict(ARMS[arm])
            if arm == "stale":
                axes["prior"] = {**axes["prior"], "params": {"delay": args.delay}}
            config = bench.config(
                strategy={"preset": "v05", **axes},
                steps=args.steps,
                rollouts_per_step=args.rollouts,
                task={"train_prompts": 512, "validation_prompts": 512, "test_prompts": 32},
                evaluation={"every": args.steps, "samples": 2},
            )
            events = bench.run(config, list(range(args.seeds)))
            if events[-1]["outcome"] != "finished":
                print(f"{arm}: {events[-1]['error']}", file=sys.stderr)
                return 1
            rows = np.array([row(events, seed) for seed in range(args.seeds)])
            se = rows.std(0, ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else np.zeros(rows.shape[1])
            cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(rows.mean(0), se, strict=True)]
            print(f"| {arm} | " + " | ".join(cells) + " |", flush=True)
        bench.slots.close(60)
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
