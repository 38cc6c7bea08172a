"""James-Stein advantages of JSPO's code, for `benchmarks.peers`. It is not on PyPI: give a clone of it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks import peers

REPOSITORY = "guanning03/JSPO-Official"
COMMIT = "3f8539d"
FILE = "code/verl/trainer/ppo/core_algos.py"
GROUPS: dict[str, list[list[float]]] = {
    "even": peers.GROUPS["even"],
    "fractions": [
        [0.25, 0.5, 1.0],
        [0.75, 0.0, 0.5],
        [0.375, 0.875, 0.625],
        [0.0, 0.0, 0.125],
        [1.0, 1.0, 0.5],
    ],
    "two prompts": [[1, 0, 0, 1], [0, 1, 0, 0]],
    "uniform": [[1, 1, 1], [1, 1, 1], [1, 1, 1]],
    "uniform groups": [[1, 1], [0, 0], [1, 1], [0, 0]],
}
"""Rewards by group. The code takes groups of one size only, of two rollouts at least."""


def advantages(module: ModuleType, groups: list[list[float]]) -> dict[str, list[float]]:
    """Return advantages (N,) of `compute_jspo_outcome_advantage` and the weight of the others' mean (N,)."""
    import torch

    reward_N1 = torch.tensor([r for group in groups for r in group], dtype=torch.float64)[:, None]
    index_N = np.array([row for row, group in enumerate(groups) for _ in group])
    found = module.compute_jspo_outcome_advantage(reward_N1, torch.ones_like(reward_N1), index_N)
    return {"advantage": found[0][:, 0].tolist(), "weight": found[2].tolist()}


def compute(clone: Path) -> dict[str, Any]:
    """Run the function; call it inside the peers' environment only."""
    for package in ("verl", "verl.utils", "verl.trainer", "verl.trainer.ppo", "scipy"):
        peers.stand_in(package)
    peers.stand_in("verl.utils.torch_functional")
    peers.stand_in("verl.trainer.config", AlgoConfig=type("AlgoConfig", (), {}))
    # What is logged beside the advantages.
    peers.stand_in("verl.trainer.ppo.metric_utils", score_tensor_to_pass_at_k=lambda _: {})
    peers.stand_in("scipy.special", comb=None)
    module, sha256 = peers.from_clone(clone, COMMIT, FILE)
    source = {"repository": REPOSITORY, "commit": COMMIT, "file": FILE, "sha256": sha256}
    source["recompute"] = "not on PyPI: python -m benchmarks.peers --source jspo=CLONE"
    return {"source": source, "jspo": {name: advantages(module, g) for name, g in GROUPS.items()}}
