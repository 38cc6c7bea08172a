"""DeepSpeed must train without compiling: a fresh machine has no C++ compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import deepspeed, torch
from trainables.learner.extensions import skip_shm_extension
skip_shm_extension()
model = torch.nn.Linear(4, 1)
engine, *_ = deepspeed.initialize(
    model=model,
    optimizer=torch.optim.AdamW(model.parameters()),
    config={"train_batch_size": 2, "zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True},
)
before = model.weight.detach().clone()
engine.backward(engine(torch.ones(2, 4)).sum())
engine.step()
assert not torch.equal(before, model.weight)
"""


@pytest.mark.slow
def test_deepspeed_steps_without_a_compiler(tmp_path: Path) -> None:
    alone = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    here = {
        "DS_ACCELERATOR": "cpu",
        "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions"),
        "PATH": str(tmp_path),
    }
    subprocess.run([sys.executable, "-c", SCRIPT], env=os.environ | alone | here, check=True)
    assert not (tmp_path / "extensions").exists()
