"""Two learner ranks that lose each other: real processes, gloo, no Ray.

Both ranks are processes of their own, because a process has one default group and the tests' may be taken.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from speed import patience

from trainables.learner.group import LearnerGroup, follow, open_control
from trimtab.errors import DivergedError, LearnerLost

pytestmark = pytest.mark.slow

DEADLINE_S = patience(3)
COMMAND_S = 1800.0
"""How long a rank waits for a command."""
SPAWN = multiprocessing.get_context("spawn")


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


def join(folder: Path, rank: int, command_s: float) -> Any:
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    return open_control(2, command_s)


def second(folder: Path, command_s: float) -> None:
    control = join(folder, 1, command_s)
    follow(Rank(1), control)  # type: ignore[arg-type]


def first(folder: Path, command_s: float, check: Callable[..., None], second_ended: Any) -> None:
    """Rank 0 makes the check. Its exit code is 0 if that holds; what did not hold is on standard error."""
    control = join(folder, 0, command_s)
    check(LearnerGroup(Rank(0), control), second_ended)  # type: ignore[arg-type]
    # A group that is broken cannot be taken leave of.
    os._exit(0)


def run(folder: Path, check: Callable[..., None], command_s: float = COMMAND_S) -> int | None:
    """Run both ranks until rank 0 has made its check. Returns how rank 1 ended by itself, if it had to."""
    second_ended = SPAWN.Event()
    one = SPAWN.Process(target=second, args=(folder, command_s))
    zero = SPAWN.Process(target=first, args=(folder, command_s, check, second_ended))
    for process in (one, zero):
        process.start()
    try:
        if command_s < COMMAND_S:
            one.join(patience(60))
            second_ended.set()
        ended = one.exitcode
        zero.join(patience(120))
        assert zero.exitcode == 0
    finally:
        for process in (one, zero):
            process.kill()
            process.join()
    return ended


def raises_alone(group: LearnerGroup, _: Any) -> None:
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


def test_a_rank_that_raises_alone_breaks_the_group_within_the_deadline(tmp_path) -> None:
    run(tmp_path, raises_alone)


def dies(group: LearnerGroup, _: Any) -> None:
    with pytest.raises(LearnerLost, match="cannot be reached"):
        group._all("die")
    assert group.broken


def test_a_rank_that_dies_is_a_lost_learner(tmp_path) -> None:
    run(tmp_path, dies)


def is_too_late(group: LearnerGroup, second_ended: Any) -> None:
    assert group._all("reduce", None) == [2, 2]
    assert second_ended.wait(patience(120))
    with pytest.raises(LearnerLost, match="cannot be reached"):
        group._all("reduce", None)
    assert group.broken


def test_a_rank_that_gets_no_command_for_so_long_gives_up_and_the_next_one_says_so(tmp_path) -> None:
    assert run(tmp_path, is_too_late, command_s=DEADLINE_S), "it ended by itself, and not well"
