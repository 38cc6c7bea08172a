"""A home with a searched sweep and its confirmation, as their drivers would have left them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from speed import patience

from trimtab.sweepdir import journal
from trimtab.sweepspec.load import load_spec
from trimtab.sweepspec.spec import SweepSpec
from trimtab.tracking.tracker import Tracker

SHAPE = np.array([0.50, 0.54, 0.58, 0.60, 0.62, 0.63, 0.64])
START_S = 1_700_000_000.0


@dataclass
class Decided:
    """Writes journals and tells MLflow."""

    home: Path
    uri: str
    checkpoint: Path | None = None

    def folder(self, name: str) -> Path:
        return self.home / "sweeps" / name

    def store(self, name: str, spec: SweepSpec) -> None:
        """Begin a sweep of that name."""
        self.folder(name).mkdir(parents=True)
        (self.folder(name) / "spec.yaml").write_text(spec.text())

    def trial(
        self,
        name: str,
        number: int,
        config: dict[str, Any],
        seeds: range,
        gain: float,
        split: str = "validation",
        noise: float = 0.004,
        status: str = "finished",
    ) -> None:
        """One configuration: curves of that gain over SHAPE, every ten steps."""
        key, rng = f"trial-{number:04d}", np.random.default_rng(number)
        role = "reference" if number == 0 else "candidate"
        clock = iter(np.arange(START_S + 1000 * number, START_S + 1e6))

        def enter(event: str, **fields: Any) -> None:
            journal.append(self.folder(name), {"event": event, "trial": key, "time": next(clock), **fields})

        enter(
            "trial_started", role=role, number=number, label="dapo" if number == 0 else f"v05-{number}",
            config=config, searched={} if number == 0 else {"v05.alpha": 0.1 * number}, seeds=list(seeds),
        )  # fmt: skip
        for seed in seeds:
            common = np.random.default_rng(seed + 1000).normal(0, 0.01)
            for index, base in enumerate(SHAPE):
                spent = {
                    "seed": seed,
                    "step": 10 * index,
                    "rollouts": 1280 * index,
                    "tokens": 4000 * index * (1 if number == 0 else 2),
                    "seconds": 2.0 * index,
                }
                accuracy = float(base + common + gain + rng.normal(0, noise))
                metrics = {"reward": accuracy, "gradient_norm": 1.0 + number, "entropy": 0.5}
                metrics |= {"gradient_noise_trace": 2.0, "gradient_signal": 1.0}
                if index:
                    enter("step", **spent, metrics=metrics)
                enter("evaluation", split=split, **spent, metrics={"accuracy": accuracy, "answers": 64.0})
            checkpoint = str(self.checkpoint) if self.checkpoint else None
            enter("run_finished", seed=seed, status=status, error=None, checkpoint=checkpoint)
        enter("trial_finished", status=status, score=0.55 + gain, error=None)

    def track(self, name: str) -> None:
        spec = load_spec(self.folder(name) / "spec.yaml")
        tracker = Tracker(self.folder(name), self.uri, name, spec)
        tracker.start()
        assert tracker.close("finished", timeout_s=patience(200)) == []

    def sweep_id(self, name: str) -> str:
        return str(json.loads((self.folder(name) / "tracking.json").read_text())["sweep_id"])


def config_of(spec: SweepSpec, number: int) -> dict[str, Any]:
    """The resolved configuration of a trial, as a journal holds it."""
    searched = spec.reference if number == 0 else spec.candidates[0]
    values = {} if number == 0 else {"alpha": 0.1 * number, "group_size": 4, "k_max": 16}
    return spec.config_of(searched, values).model_dump(mode="json")
