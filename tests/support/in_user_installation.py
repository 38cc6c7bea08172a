"""A script for the Python of a user's installation: it has neither pytest nor anything else of the extras.

    python tests/support/in_user_installation.py MODEL STAGES [--all]

trains a step on MODEL at each of the ZeRO STAGES ("0123"), in one process, and prints their gradient norms as
JSON. With --all it first imports every module and asks every command for its help.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Iterator
from typing import Any

ALONE = {"DS_ACCELERATOR": "cpu", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
"""What Ray Train sets for its workers."""


def import_all() -> int:
    """Import every module of both packages and return how many they are."""
    count = 0
    for root in ("trimtab", "trainables"):
        package = importlib.import_module(root)
        for found in pkgutil.walk_packages(package.__path__, f"{root}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)
                count += 1
    return count


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the command's path and those of all that it holds."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def help_of_all() -> int:
    """Ask every command for its help and return how many they are."""
    from click.testing import CliRunner

    from trimtab.cli.main import main

    paths = list(commands(main))
    for path in paths:
        done = CliRunner().invoke(main, [*path, "--help"])
        if done.exit_code:
            raise SystemExit(f"trimtab {' '.join(path)} --help: exit {done.exit_code}\n{done.output}")
    return len(paths)


def train(model: str, stages: str) -> dict[str, float]:
    """Make one update at each ZeRO stage, on four rollouts, and return the gradient norms."""
    import numpy as np
    import torch
    import torch.distributed as dist

    from trainables.config import LearnerConfig, LossConfig
    from trainables.learner.group import LearnerGroup
    from trainables.learner.rank import Learner
    from trainables.learner.tokens import TokenBatch, TrainBatch

    os.environ.update(ALONE)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    prompt_N, response_N = np.full(4, 3, np.int32), np.array([1, 2, 4, 3], np.int32)
    rng = np.random.default_rng(0)
    token_S = rng.integers(2, 16, int((prompt_N + response_N).sum())).astype(np.int32)
    advantage_M = np.repeat(np.array([1, -1, 1, -1], np.float32), response_N)
    norms = {}
    group = LearnerGroup(Learner(0, 1, torch.device("cpu")))
    for stage in stages:
        group.reset(model, LearnerConfig(zero_stage=int(stage)), 1.0, 0)
        blank = TokenBatch(prompt_N, response_N, token_S, np.zeros(int(response_N.sum()), np.float32))
        old_M = group.forward(blank).logprob_M
        sampled = TokenBatch(prompt_N, response_N, token_S, old_M)
        batch = TrainBatch(sampled, old_M, advantage_M, np.ones(4, np.float32), float(len(old_M)))
        norms[stage] = float(group.update(batch, LossConfig()).gradient_norm)
    group.close()
    dist.destroy_process_group()
    return norms


if __name__ == "__main__":
    found: dict[str, Any] = {}
    if "--all" in sys.argv:
        found = {"modules": import_all(), "commands": help_of_all()}
    found["norms"] = train(sys.argv[1], sys.argv[2])
    print(json.dumps(found))
