"""The Ray cluster of a session that runs on this machine alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from trimtab.errors import ClusterError
from trimtab.planning.plan import Plan
from trimtab.remote.disconnect import shut_ray_down
from trimtab.security import prepare_ray_auth

TRIES = 3
INTERRUPTED_S = 10.0
"""Longest wait for processes to end by themselves when the user is waiting at the prompt."""


@contextmanager
def local_ray(plan: Plan) -> Iterator[None]:
    """Start a Ray cluster for the block, authenticated and on loopback, and end all its processes."""
    prepare_ray_auth()
    # An actor a slot that asks whether the cloud is about to take its node back: not this machine.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    import ray

    start_ray(
        # The plan counts what Ray takes: whole cores and GPUs.
        num_cpus=int(plan.cpus),
        num_gpus=int(plan.gpus),
        # Ray Train frees the workers of ended runs through the dashboard's State API.
        include_dashboard=True,
        _node_ip_address="127.0.0.1",
    )
    try:
        yield
    finally:
        started = _processes_of(ray.get_runtime_context().get_session_name())
        shut_ray_down()
        _outlive(started)


def start_ray(**options: Any) -> None:
    """Start a new cluster on loopback and connect to it; `options` are those of `ray.init`.

    A raylet ends itself when its agent is not up within 15 s, which happens on a crowded machine, and
    `ray.init` gives up 15 s later (Ray 2.60): the next attempt usually starts.

    Raises:
        ClusterError: it did not start in `TRIES` attempts.
    """
    import ray

    here = psutil.Process()
    for tries_left in reversed(range(TRIES)):
        before = set(here.children())
        try:
            ray.init(
                address="local",
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level="ERROR",
                **options,
            )
            return
        except Exception as error:  # Ray has no class of its own for this: RuntimeError or Exception itself
            ray.shutdown()
            for started in set(here.children()) - before:
                _end([started, *_below(started)])
            if not tries_left:
                why = str(error).strip().splitlines() or [type(error).__name__]
                raise ClusterError(
                    f"Ray did not start on this machine in {TRIES} attempts: {why[0][:300]} Is the machine "
                    "overloaded? `trimtab doctor` shows; Ray's logs are in /tmp/ray/session_latest/logs"
                ) from error


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=INTERRUPTED_S)


def _processes_of(session: str) -> list[psutil.Process]:
    """Return the processes of a Ray session that this process started, workers included."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any(session in argument for argument in child.cmdline()):
                found += [child, *child.children(recursive=True)]
    return found


def _outlive(processes: list[psutil.Process]) -> None:
    """Return when all of these have ended; kill what takes too long. psutil never mistakes a recycled pid."""
    _, alive = psutil.wait_procs(processes, timeout=INTERRUPTED_S)
    _end(alive)
