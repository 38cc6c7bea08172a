"""Two learner ranks that lose each other: real processes, gloo, no Ray."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from trainables.learner.group import LearnerGroup, follow, open_control
from trimtab.errors import DivergedError, LearnerLost

DEADLINE_S = 3


class Rank:
    """In the learner's place: collective methods that go wrong."""

    world_size = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.data = dist.new_group(backend="gloo", timeout=timedelta(seconds=DEADLINE_S))

    def reduce(self, fail: int | None) -> int:
        """Rank `fail` raises where the other waits for it."""
        import torch

        if self.rank == fail:
            raise MemoryError("no memory on this rank")
        value = torch.ones(1)
        dist.all_reduce(value, group=self.data)
        return int(value)

    def diverge(self) -> None:
        raise DivergedError("alike on every rank")

    def die(self) -> None:
        if self.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def join(folder: Path, rank: int, patience_s: float) -> Any:
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    return open_control(2, patience_s)


def second(folder: Path, patience_s: float) -> None:
    control = join(folder, 1, patience_s)
    follow(Rank(1), control)  # type: ignore[arg-type]


@pytest.fixture
def patience_s() -> float:
    """How long a rank waits for a command."""
    return 1800


@pytest.fixture
def other(tmp_path, patience_s):
    """The process of rank 1."""
    process = multiprocessing.get_context("spawn").Process(target=second, args=(tmp_path, patience_s))
    process.start()
    yield process
    process.join()


@pytest.fixture
def group(tmp_path, patience_s, other):
    control = join(tmp_path, 0, patience_s)
    group = LearnerGroup(Rank(0), control)  # type: ignore[arg-type]
    yield group
    group.dismiss()
    if group.broken:
        other.kill()
    other.join()
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_rank_that_raises_alone_breaks_the_group_within_the_deadline(group):
    assert group._all("reduce", None) == [2, 2]
    with pytest.raises(DivergedError):
        group._all("diverge")
    assert not group.broken, "all raised alike: the ranks are in step"
    started = time.monotonic()
    with pytest.raises(LearnerLost, match="no memory on this rank") as failure:
        group._all("reduce", 1)
    assert time.monotonic() - started < 10 * DEADLINE_S
    assert isinstance(failure.value.__cause__, MemoryError)
    assert group.broken


@pytest.mark.slow
def test_a_rank_that_dies_is_a_lost_learner(group):
    with pytest.raises(LearnerLost, match="cannot be reached"):
        group._all("die")
    assert group.broken


@pytest.mark.slow
@pytest.mark.parametrize("patience_s", [DEADLINE_S])
def test_a_rank_that_gets_no_command_for_so_long_gives_up_and_the_next_one_says_so(group, other):
    assert group._all("reduce", None) == [2, 2]
    other.join(60)
    assert other.exitcode, "it ended by itself, and not well"
    with pytest.raises(LearnerLost, match="cannot be reached"):
        group._all("reduce", None)
    assert group.broken
