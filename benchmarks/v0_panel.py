"""Measure priors' errors against a many-rollout pass rate over training: `python -m benchmarks.v0_panel`.

One run trains with leave-one-out on `DRAWS` rollouts of each prompt. Each prior sees and learns from the
first `SEEN` of them only, as it would with groups of `SEEN`; the others measure the pass rate. All priors,
including deliberately wrong ones, predict the same rollouts of the same policies. Printed are the root of the
mean squared error of each value estimate against the mean of the other rollouts, with that mean's own
sampling variance subtracted; the same for V0.5's baseline of the value estimate and the `SEEN` rollouts; and
how often V0.5's test accepted the value estimate.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.v0_training import Constant, Inverted, Stale
from trainables.strategies.batch import (
    Batch,
    Decision,
    FloatArray,
    IntArray,
    Needs,
    Pool,
    PromptVectors,
    Requests,
    RolloutBudget,
    Scores,
    Stats,
)
from trainables.strategies.config import parse_strategy
from trainables.strategies.diagnostics import ACCEPTED
from trainables.strategies.fusion.tested import Tested
from trainables.strategies.groups import Groups
from trainables.strategies.priors.base import Prior, PriorMember
from trainables.strategies.priors.context import ContextPrior
from trainables.strategies.priors.global_mean import GlobalPrior
from trainables.strategies.priors.pool import PoolPrior
from trainables.strategies.priors.probe import ProbePrior
from trainables.strategies.priors.strata import StrataPrior
from trainables.strategies.priors.tracker import TrackerPrior
from trainables.strategies.scale import UNIT
from trainables.strategies.value_estimate import ValueEstimate

SEEN, DRAWS = 4, 32
HONEST = ("context", "tracker", "probe", "probe_prompt", "pool", "strata", "global")
LYING = ("constant", "inverted", "stale")


class Panel:
    """RLOO with `DRAWS` rollouts. Its diagnostics have the `<prior>_mse` of each prior before it learns."""

    def __init__(self) -> None:
        self.own = parse_strategy({"preset": "rloo", "group_size": DRAWS}).build()
        members: dict[str, PriorMember] = {
            "context": ContextPrior(),
            "tracker": TrackerPrior(),
            "probe": ProbePrior(),
            "probe_prompt": ProbePrior(states="prompt"),
            "pool": PoolPrior(),
            "strata": StrataPrior(),
            "global": GlobalPrior(),
        }
        self.priors: dict[str, Prior] = {name: member.begin(UNIT) for name, member in members.items()}
        self.priors |= {"constant": Constant(), "inverted": Inverted(), "stale": Stale()}

    def needs(self) -> Needs:
        needs = self.own.needs()
        for prior in self.priors.values():
            needs = needs.union(prior.needs())
        return needs

    def provide(self, vectors: PromptVectors) -> None:
        for prior in self.priors.values():
            prior.provide(vectors)

    def select(self, pool: Pool, rollout_budget: RolloutBudget, wanted: int | None = None) -> Requests:
        return self.own.select(pool, rollout_budget, wanted)

    def decide(self, batch: Batch, rollout_budget: RolloutBudget) -> Decision:
        return self.own.decide(batch, rollout_budget)

    def score(self, batch: Batch) -> Scores:
        scores = self.own.score(batch)
        first_N = first_of_group(batch, SEEN)
        seen, rest = part(batch, first_N), Groups.of(part(batch, ~first_N), UNIT)
        groups = Groups.of(seen, UNIT)
        notes = dict(scores.diagnostics)
        for name, prior in self.priors.items():
            estimate = prior.predict(seen)
            if estimate is None:
                raise TypeError(f"{name} returned no value estimate")
            prior_P = estimate.for_prompts(groups)
            # The probe's value estimate of a rollout comes from the others, as in training.
            fused = Tested(leave_one_out=prior.reads_own).fuse(
                groups,
                estimate if prior.reads_own else ValueEstimate(mean_P=prior_P, silent_P=estimate.silent_P),
            )
            notes[f"{name}_mse"] = squared_error(prior_P[groups.prompt_N], groups.prompt_N, rest)
            notes[f"{name}_fused_mse"] = squared_error(fused.mean_N, groups.prompt_N, rest)
            if fused.w_P is not None:
                notes[f"{name}_accepted"] = float((fused.w_P <= ACCEPTED).mean())
        notes["group_mean_mse"] = squared_error(groups.mean_P[groups.prompt_N], groups.prompt_N, rest)
        return replace(scores, diagnostics=notes)

    def observe(self, batch: Batch, stats: Stats) -> None:
        self.own.observe(batch, stats)
        seen = part(batch, first_of_group(batch, SEEN))
        for prior in self.priors.values():
            prior.observe(seen, stats)

    def state_dict(self) -> dict[str, Any]:
        return {name: prior.state_dict() for name, prior in self.priors.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, prior in self.priors.items():
            prior.load_state_dict(state[name])


def first_of_group(batch: Batch, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return a mask of the first `count` rollouts of each prompt, (N,)."""
    before = np.zeros(batch.prompts, np.int64)
    first_N = np.zeros(batch.rollouts, np.bool_)
    for n, prompt in enumerate(batch.prompt_N):
        first_N[n] = before[prompt] < count
        before[prompt] += 1
    return first_N


def part(batch: Batch, keep_N: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Batch:
    """Return the groups with some of their rollouts and all of their prompts."""
    rows: IntArray = np.flatnonzero(keep_N)
    names = ("prompt", "round", "kind", "trainable", "verdict", "correct", "reward", "length", "version")
    changes: dict[str, Any] = {f"{name}_N": getattr(batch, f"{name}_N")[rows] for name in names}
    for name in ("logprob_N", "entropy_N"):
        value = getattr(batch, name)
        changes[name] = None if value is None else value[rows]
    features = None if batch.features is None else batch.features.take(rows)
    return replace(batch, **changes, features=features, values=None)


def squared_error(value_N: FloatArray, prompt_N: IntArray, rest: Groups) -> float:
    """Return the mean squared error against the pass rate measured by `rest`, less its sampling variance."""
    used_N = (rest.count_P[prompt_N] >= 2) & np.isfinite(value_N)
    noise_P = rest.variance_P / np.maximum(rest.count_P, 1.0)
    return float(((value_N - rest.mean_P[prompt_N]) ** 2 - noise_P[prompt_N])[used_N].mean())


def table(runs: Sequence[Sequence[dict[str, float]]], windows: Sequence[tuple[int, int]]) -> str:
    """Return a row: the value estimate's error by window of steps, then V0.5's error and accepted share.

    The last two are of the last window. All are means over runs with their standard errors.
    """
    columns = [("mse", window) for window in windows] + [
        ("fused_mse", windows[-1]),
        ("accepted", windows[-1]),
    ]
    words = {"mse": "value estimate", "fused_mse": "V0.5's baseline", "accepted": "accepted"}
    titles = [f"{words[what]}, steps {first}-{last - 1}" for what, (first, last) in columns]
    lines = ["| prior | " + " | ".join(titles) + " |", "| --- |" + " --- |" * len(titles)]
    for name in (*HONEST, *LYING, "group_mean"):
        cells = [_cell(runs, f"{name}_{what}", window) for what, window in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(runs: Sequence[Sequence[dict[str, float]]], metric: str, window: tuple[int, int]) -> str:
    found = [[step.get(f"strategy/{metric}", np.nan) for step in run[slice(*window)]] for run in runs]
    mean_S = np.mean(found, axis=1)
    if np.isnan(mean_S).any():
        return "-"
    value_S = np.sqrt(np.maximum(mean_S, 0.0)) if metric.endswith("mse") else mean_S
    error = value_S.std(ddof=1) / np.sqrt(len(value_S)) if len(value_S) > 1 else float("nan")
    return f"{value_S.mean():.3f} ± {error:.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rollouts", type=int, default=320, help="per step; 32 a prompt")
    parser.add_argument("--out", type=Path, help="also write each step's metrics, one JSON object per line")
    args = parser.parse_args()
    import ray

    from tests.trainables.slot_bench import start_bench
    from trainables.config import EngineConfig, LearnerConfig
    from trainables.models.tiny import ensure_tiny

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    runs: list[list[dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        learner = LearnerConfig(lr=5e-5, lr_warmup_steps=5)
        bench = start_bench(Path(folder), str(ensure_tiny(Path(".trimtab/models"))), learner, EngineConfig())
        config = bench.config(
            strategy={"custom": "benchmarks.v0_panel:Panel"},
            steps=args.steps,
            rollouts_per_step=args.rollouts,
            task={"train_prompts": 512, "validation_prompts": 64, "test_prompts": 32},
            evaluation={"every": args.steps, "samples": 1},
        )
        for seed in range(args.seeds):
            events = bench.run(config, [seed])
            if events[-1]["outcome"] != "finished":
                print(f"seed {seed}: {events[-1]['error']}", file=sys.stderr)
                return 1
            runs.append([e["metrics"] for e in events if e["event"] == "step"])
            print(f"seed {seed}: {len(runs[-1])} steps", file=sys.stderr, flush=True)
            if args.out:
                lines = [json.dumps({"seed": seed, "step": i, **m}) for i, m in enumerate(runs[-1])]
                with args.out.open("a", encoding="utf-8") as file:
                    file.write("\n".join(lines) + "\n")
        bench.slots.close(60)
    ray.shutdown()
    ends = np.linspace(0, args.steps, 4).astype(int).tolist()
    print(table(runs, list(pairwise(ends))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
