"""The two ways of weights to the engines, on the session's vLLM engine: the same bytes, no endless wait."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray
import torch
from hypothesis import given
from hypothesis import strategies as st
from speed import patience

from trainables.config import EngineConfig, LearnerConfig
from trainables.rollouts.group import EngineGroup
from trainables.weight_sync.gloo import broadcast, join, listen
from trainables.weight_sync.publish import Rendezvous, buckets
from trainables.weight_sync.transport import GRACE_S, Broadcast, ObjectStore
from trimtab.errors import EngineLost

BUCKET = 100_000
"""Bytes: the tiny model takes some twenty buckets of it."""
TIMEOUT_S = patience(60.0)


@pytest.fixture
def learner(group: Any, tiny_model: Any) -> Iterator[Any]:
    group.reset(str(tiny_model), LearnerConfig(zero_stage=3), 1.0, 0)
    yield group
    group.hang_up()


@pytest.fixture
def engine_groups(bench: Any) -> tuple[EngineGroup, EngineGroup]:
    """The same engine behind either transport."""
    actors = bench.slots.engines
    both = EngineGroup(actors, ObjectStore()), EngineGroup(actors, Broadcast("gloo", 1, BUCKET))
    both[0].wait()
    return both


def disturb(learner: Any) -> None:
    """Other weights, so that a load that does nothing shows."""
    import deepspeed

    parameters = list(learner._learner._model.parameters())
    with torch.no_grad(), deepspeed.zero.GatheredParameters(parameters, modifier_rank=0):
        for parameter in parameters:
            parameter.add_(0.01)


def test_a_broadcast_gives_the_engine_what_the_object_store_gives(learner, engine_groups):
    stored, streamed = engine_groups
    marks, checksums = [], []
    for version in range(2):
        for engines in (streamed, stored):
            sent = engines.update(learner, version, TIMEOUT_S)
            assert sent.nbytes == learner.weights().nbytes
            assert sent.send_s > 0
            assert sent.gather_s > 0
            marks.append(engines.fingerprints()[0].weights)
        checksums.append(learner.checksum())
        assert checksums[-1] == learner.weights().checksum()
        disturb(learner)
    assert marks[0] == marks[1] != marks[2] == marks[3]
    assert checksums[0] != checksums[1]


def in_mid_broadcast(learner: Any, act: Callable[[], None]) -> None:
    """Have `act` called once, after the third bucket of the next broadcast."""
    endpoint = learner._learner.endpoint
    send, count = endpoint.send, iter(range(10**6))

    def acting(bucket: torch.Tensor, timeout_s: float) -> None:
        if next(count) == 3:
            act()
        send(bucket, timeout_s)

    endpoint.send = acting


@pytest.mark.parametrize(
    ("how", "timeout_s"),
    [(signal.SIGKILL, TIMEOUT_S), pytest.param(signal.SIGSTOP, 5.0, marks=pytest.mark.slow)],
    ids=["killed", "stopped"],
)
def test_an_engine_that_is_lost_in_mid_broadcast_ends_it_and_comes_back(
    learner, engine_groups, how, timeout_s
):
    _, streamed = engine_groups
    streamed.update(learner, 0, TIMEOUT_S)
    mark = streamed.fingerprints()[0].weights
    pid = ray.get(streamed._actors[0].__ray_call__.remote(lambda _: os.getpid()))
    in_mid_broadcast(learner, lambda: os.kill(pid, how))
    began = time.monotonic()
    with pytest.raises((EngineLost, ray.exceptions.RayActorError)):
        streamed.update(learner, 1, timeout_s)
    # Ray takes some seconds to kill a process that is stopped.
    assert time.monotonic() - began < patience(30 if how == signal.SIGKILL else timeout_s + GRACE_S + 20)
    assert learner._learner.endpoint is None, "the group is given up"
    streamed.wait()
    streamed.reset()
    streamed.update(learner, 2, TIMEOUT_S)
    assert streamed.fingerprints()[0].weights == mark


def test_a_lease_finds_that_its_engine_left_the_group(learner, engine_groups):
    """As a restarted engine has; here it has joined another learner's group."""
    _, streamed = engine_groups
    streamed.update(learner, 0, TIMEOUT_S)
    streamed.reset()
    kept = learner._learner.endpoint
    streamed.update(learner, 1, TIMEOUT_S)
    assert learner._learner.endpoint is kept, "a group serves many leases"
    other = EngineGroup(streamed._actors, Broadcast("gloo", 1))
    other.update(learner, 2, TIMEOUT_S)
    streamed.reset()
    streamed.update(learner, 3, TIMEOUT_S)


def test_a_group_that_nobody_joins_ends_at_its_deadline(learner):
    began = time.monotonic()
    learner.listen(Rendezvous("gloo", "127.0.0.1", 2, 1.0))
    published = learner.publish(1.0)
    assert published.error
    assert time.monotonic() - began < patience(5)
    store = listen("127.0.0.1", 1.0)
    with pytest.raises(RuntimeError):
        join(store, "127.0.0.1", 0, 2, 1.0)


def test_no_send_begins_after_the_deadline():
    group = join(listen("127.0.0.1", 5.0), "127.0.0.1", 0, 1, 5.0)
    broadcast(group, torch.zeros(4), 1.0)
    with pytest.raises(TimeoutError):
        broadcast(group, torch.zeros(4), 0.0)


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 100))
def test_buckets_are_cut_where_the_receiver_cuts_them(sizes, limit):
    """The rule of vLLM's packed consumer: a bucket ends with the parameter that takes it beyond the limit."""
    parts = list(buckets((torch.full((n,), n % 256, dtype=torch.uint8) for n in sizes), limit))
    expected, current = [], []
    for size in sizes:
        current.append(size)
        if sum(current) > limit:
            expected, current = [*expected, sum(current)], []
    assert [part.numel() for part in parts] == expected + ([sum(current)] if current else [])
    assert torch.cat(parts).tolist() == [n % 256 for n in sizes for _ in range(n)] if parts else not sizes


def test_both_ends_cut_as_vllm_does(bench):
    """vLLM's own producer and our receiver, in the engine's process, where vLLM is loaded."""

    def cuts(_: Any) -> tuple[list[int], list[int], list[int]]:
        from vllm.distributed.weight_transfer.packed_tensor import pack_tensors

        from trainables.weight_sync.gloo_transfer import NCCLWeightTransferUpdateInfo, _buckets

        shapes = [[7, 3], [50], [2, 2, 2], [90], [1], [33]]
        tensors = [torch.zeros(shape) for shape in shapes]
        named, theirs = iter([(str(n), tensor) for n, tensor in enumerate(tensors)]), []
        while chunk := pack_tensors(named, lambda item: item[1], 300):
            theirs.append(chunk.packed_tensor.numel())
        info = NCCLWeightTransferUpdateInfo([str(n) for n in range(6)], ["float32"] * 6, shapes)
        received = [sum(size for *_, size in part) for part in _buckets(info, 300)]
        return theirs, received, [part.numel() for part in buckets(iter(tensors), 300)]

    theirs, received, sent = ray.get(bench.slots.engines[0].__ray_call__.remote(cuts))
    assert theirs == received == sent
    assert len(sent) > 2


def test_the_transformers_engine_refuses_a_broadcast():
    with pytest.raises(ValueError, match=r"weight_sync: broadcast needs kind vllm"):
        EngineConfig(kind="transformers", weight_sync="broadcast")
