"""No file that another user may have written is unpickled."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from trainables.learner import checkpoints
from trimtab.errors import SecurityError


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


def test_a_deepspeed_state_that_others_may_write_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "deepspeed" / "state"
    folder.mkdir(parents=True)
    file = folder / "mp_rank_00_model_states.pt"
    file.write_bytes(b"x")
    checkpoints.refuse_foreign(tmp_path / "deepspeed")
    file.chmod(0o666)
    with pytest.raises(SecurityError, match="can be written by everybody"):
        checkpoints.refuse_foreign(tmp_path / "deepspeed")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_deepspeed_state_of_another_user_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"x")
    os.chown(tmp_path / "state.pt", 12345, 12345)
    with pytest.raises(SecurityError, match="belongs to user 12345"):
        checkpoints.refuse_foreign(tmp_path)


def test_the_loops_own_state_is_never_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    (folder / "loop.json").write_text('{"x": {"__array__": "a0"}}')
    np.savez(folder / "arrays.npz", a0=np.array([Trap(mark)], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        checkpoints.load_state(folder)
    assert not mark.exists()


@pytest.mark.slow
def test_a_model_in_a_pickle_format_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    import torch

    from trainables.learner.policy import load_policy

    mark = tmp_path / "mark"
    for file in tiny_model.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(OSError, match="safetensors"):
        load_policy(str(tmp_path), torch.float32)
    assert not mark.exists()
