"""Advantages of SPPO's released code, for `benchmarks.peers`. It is not on PyPI: give a clone of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers

REPOSITORY = "sustech-nlp/SPPO"
COMMIT = "55e8a72"
FILE = "verl/trainer/ppo/core_algos.py"


def logits() -> dict[str, list[float]]:
    """Return what a critic says of each prompt, (P,), by batch: the log-odds of its pass rate."""
    rng = np.random.default_rng((14, 20))
    return {name: rng.normal(0, 1.5, len(groups)).tolist() for name, groups in peers.GROUPS.items()}


def compute(clone: Path) -> dict[str, Any]:
    """Run `compute_sequence_level_advantage`; call it inside the peers' environment only."""
    import torch

    def same(*_: Any) -> Any:
        return lambda function: function

    peers.stand_in("verl")
    for package in ("verl.trainer", "verl.workers"):
        peers.stand_in(package)
    peers.stand_in("verl.utils", as_torch_index=None, group_mean_std=None)
    peers.stand_in("verl.utils.torch_functional")
    peers.stand_in("verl.utils.import_utils", deprecated=same)
    peers.stand_in("omegaconf", DictConfig=type("DictConfig", (), {}))
    peers.stand_in("verl.trainer.config", AlgoConfig=type("AlgoConfig", (), {}))
    peers.stand_in("verl.workers.config", ActorConfig=type("ActorConfig", (), {}))
    module, sha256 = peers.from_clone(clone, COMMIT, FILE)
    found, given = {}, logits()
    for name, batch in peers.batches().items():
        reward_N1 = torch.tensor(batch["reward"], dtype=torch.float64)[:, None]
        logit_N = torch.tensor([given[name][p] for p in batch["prompt"]], dtype=torch.float64)
        ones_N1 = torch.ones_like(reward_N1)
        found[name] = module.compute_sequence_level_advantage(reward_N1, logit_N, ones_N1)[0][:, 0].tolist()
    source = {"repository": REPOSITORY, "commit": COMMIT, "file": FILE, "sha256": sha256}
    source["recompute"] = "not on PyPI: python -m benchmarks.peers --source sppo=CLONE"
    return {"source": source, "logits": given, "advantages": found}
