"""Join a Ray cluster that exists (`session.own_ray` starts one of the session's own)."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trimtab._version import __version__
from trimtab.errors import ClusterError, SpecError
from trimtab.planning.placement import Cluster, Node
from trimtab.remote.disconnect import shut_ray_down
from trimtab.security import prepare_ray_auth

CONNECT_S = 15.0
"""Time limit for the first answer of a cluster."""
LOOK_S = 120.0
"""Time limit for the answers of all nodes before a sweep starts."""
CLIENT_VERSION = "TRIMTAB_CLIENT_VERSION"
"""Variable of submitted jobs: the version of trimtab that read the spec."""
REQUIRED_SECRETS = "TRIMTAB_REQUIRED_SECRETS"
"""Variable of submitted jobs: names of the variables that the cluster must have set, separated by commas."""


@contextmanager
def joined_ray(address: str, home: Path, environment: dict[str, str]) -> Iterator[Cluster]:
    """Join the Ray cluster at `address` as a driver while the block runs.

    Before the block starts, every node has shown that it sees `home` and runs this version of trimtab.

    Args:
        address: HOST:PORT of the head, or `auto` for the cluster of this machine or job.
        home: Folder on storage that all nodes share.
        environment: Variables for every process of the sweep.

    Raises:
        ClusterError: No cluster answers, the token is wrong, or versions of Ray, Python or trimtab differ.
        SpecError: `address` is malformed, or `home` is not shared.
    """
    _check_job()
    prepare_ray_auth(create=False)
    if address != "auto":
        parts = urlsplit(f"//{address}")
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or not port:
            raise SpecError(f"--address: {address!r} is neither 'auto' nor HOST:PORT of a cluster's head")
        check_reachable(address, host, port)
    import ray

    try:
        ray.init(
            address=address,
            runtime_env={"env_vars": environment},
            log_to_driver=False,
            logging_level="ERROR",
        )
    except ConnectionError as error:
        raise ClusterError(
            f"--address: no Ray cluster at {address!r} ({_first_line(error)}); start one with `ray start "
            "--head`, or check the address"
        ) from None
    except ray.exceptions.AuthenticationError as error:
        raise ClusterError(
            f"--address: {address!r} refuses this token ({_first_line(error)}); copy the cluster's token to "
            "~/.ray/auth_token, or name its file with RAY_AUTH_TOKEN_PATH"
        ) from None
    except RuntimeError as error:
        # Ray's message says on several lines which versions differ.
        said = " ".join(str(error).split())[:400]
        raise ClusterError(f"--address: {address!r} cannot be joined: {said}") from None
    try:
        _check_nodes(home)
        yield Cluster(tuple(_nodes()))
    finally:
        shut_ray_down()


def check_reachable(address: str, host: str, port: int) -> None:
    """Check that something listens at an address. Ray itself would retry for minutes.

    Raises:
        ClusterError: Nothing listens there within `CONNECT_S` seconds.
    """
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ClusterError(
            f"--address: no Ray cluster answers at {address} ({why}); is the port forwarded?"
        ) from None


def _nodes() -> Iterator[Node]:
    import ray

    for node in ray.nodes():
        if node["Alive"]:
            yield Node(node["NodeName"], node["Resources"])


def _check_job() -> None:
    """Check what `trimtab submit` requires of the cluster: the same version, and all secrets."""
    client = os.environ.get(CLIENT_VERSION, __version__)
    if client != __version__:
        raise ClusterError(
            f"submitted by trimtab {client}, but the cluster runs {__version__}; use the same version on both"
        )
    names = [name for name in os.environ.get(REQUIRED_SECRETS, "").split(",") if name]
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise ClusterError(
            f"--secret: {', '.join(missing)} not set on the cluster's head; give it to the head's process "
            "(on Kubernetes: env with secretKeyRef), not to the job"
        )


def _check_nodes(home: Path) -> None:
    """Check on every node that it sees the sweep's folder and runs this version of trimtab."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probe = home / f".probe-{uuid.uuid4().hex}"
    home.mkdir(parents=True, exist_ok=True)
    probe.touch()
    try:
        look = ray.remote(_look)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        tasks = []
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked = look.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            tasks.append(asked.remote(str(probe)))
        answers = ray.get(tasks, timeout=LOOK_S)
    except ray.exceptions.GetTimeoutError:
        raise ClusterError(f"not every node answered within {LOOK_S:.0f} s; see `ray status`") from None
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"a node cannot run trimtab {__version__}: {_first_line(error)}; use one image for all nodes"
        ) from None
    finally:
        probe.unlink()
    for node, (version, seen) in zip(nodes, answers, strict=True):
        name = node["NodeName"]
        if version != __version__:
            raise ClusterError(
                f"node {name} runs trimtab {version}, this driver {__version__}; use one image for all nodes"
            )
        if not seen:
            raise SpecError(
                f"home: {home} is not shared: node {name} does not see what the driver writes there; set "
                "home to a folder on storage that all nodes mount"
            )


def _look(probe: str) -> tuple[str, bool]:
    return __version__, Path(probe).exists()


def _first_line(error: Any) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
