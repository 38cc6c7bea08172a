"""The Ray cluster of a sweep that runs on this machine alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from trimtab.plan import Plan
from trimtab.security import prepare_ray_auth

INTERRUPTED_S = 10.0
"""Longest wait for processes to end by themselves when the user is waiting at the prompt."""


@contextmanager
def local_ray(plan: Plan) -> Iterator[None]:
    """A Ray cluster of this sweep's own, authenticated and on loopback, ended with it."""
    prepare_ray_auth()
    import ray

    ray.init(
        address="local",
        # The plan counts what Ray takes: whole cores and GPUs.
        num_cpus=int(plan.cpus),
        num_gpus=int(plan.gpus),
        # Ray Train frees the workers of ended runs through the dashboard's State API.
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        yield
    finally:
        started = _processes_of(ray.get_runtime_context().get_session_name())
        ray.shutdown()
        _outlive(started)


def _processes_of(session: str) -> list[psutil.Process]:
    """The processes of a Ray session that this process started, workers included."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any(session in argument for argument in child.cmdline()):
                found += [child, *child.children(recursive=True)]
    return found


def _outlive(processes: list[psutil.Process]) -> None:
    """Return when all of these have ended; kill what takes too long. psutil never mistakes a recycled pid."""
    _, alive = psutil.wait_procs(processes, timeout=INTERRUPTED_S)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=INTERRUPTED_S)
