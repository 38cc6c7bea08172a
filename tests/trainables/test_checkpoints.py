"""Checkpoints on a disk that is full: a small tmpfs, really filled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainables.learner import checkpoints
from trainables.worker.failures import classify
from trimtab.errors import StorageError


def test_a_full_disk_keeps_the_checkpoint_before_and_says_so(small_disk):
    def small(folder: Path) -> None:
        (folder / "model").write_bytes(b"x" * 100_000)

    def large(folder: Path) -> None:
        (folder / "model").write_bytes(b"x" * 5_000_000)

    kept = checkpoints.save(small_disk, 1, {"step": 1, "a": np.arange(3)}, small)
    with pytest.raises(StorageError, match="the disk is full") as failure:
        checkpoints.save(small_disk, 2, {"step": 2}, large)
    assert classify(failure.value).cause == "user"
    assert checkpoints.latest(small_disk) == kept
    assert checkpoints.load_state(kept)["a"].tolist() == [0, 1, 2]
    assert sorted(path.name for path in small_disk.iterdir()) == ["checkpoint-1"], "no half of one is left"
    assert checkpoints.save(small_disk, 2, {"step": 2}, small).name == "checkpoint-2"


def test_another_failure_while_writing_stays_what_it_was(tmp_path):
    def broken(folder: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        checkpoints.save(tmp_path, 1, {}, broken)
    assert list(tmp_path.iterdir()) == []
