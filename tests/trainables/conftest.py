"""One Ray cluster, one slot (DeepSpeed worker + vLLM engine) for the whole session: starting them is most of
what these tests cost. Tests that need other processes start their own."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slot_bench import Bench, start_bench
from speed import patience

from trainables.config import EngineConfig, LearnerConfig
from trimtab.session.own_ray import start_ray

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": f"{patience(180):.0f}",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": f"{patience(600):.0f}",
}


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for key, value in SETTINGS.items():
            patch.setenv(key, value)
        # A token of our own: the user's belongs to other clusters.
        token = tmp_path_factory.mktemp("ray") / "token"
        token.write_text(secrets.token_hex(32))
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        start_ray(num_cpus=2)
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def group() -> Iterator[Any]:
    """A learner of one rank in this process, one for the session: DeepSpeed keeps the first process group."""
    import torch
    import torch.distributed as dist

    with pytest.MonkeyPatch.context() as patch:
        # What Ray Train sets for its workers.
        alone = {"DS_ACCELERATOR": "cpu", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        for key, value in alone.items():
            patch.setenv(key, value)
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        from trainables.learner.group import LearnerGroup
        from trainables.learner.rank import Learner

        group = LearnerGroup(Learner(0, 1, torch.device("cpu")))
        yield group
        group.close()
        dist.destroy_process_group()


@pytest.fixture(scope="session")
def bench(local_ray: None, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The session's slot: one learner worker, one vLLM engine."""
    found = start_bench(
        tmp_path_factory.mktemp("slot"),
        str(tiny_model),
        LearnerConfig(lr=1e-4),
        # Room for a prompt longer than one block of the prefix cache (128 tokens on CPUs).
        # Its weights are broadcast; other slots take the object store, and are compared with this one.
        EngineConfig(max_model_len=320, weight_sync="broadcast"),
    )
    yield found
    found.slots.close(patience(60))


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
