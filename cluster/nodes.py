"""A Ray cluster of several nodes on this one Linux machine, whatever it is that keeps the nodes apart.

`cluster.namespaces` gives every node a network namespace, `cluster.loopback` an address in 127.0.0.0/8.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

PORT = 6379
START_S = 120.0
TRIES = 3
RAYLET_S = 60
"""Time for which `ray start` waits for its raylet. On a crowded machine a raylet gives up when its agent has
no port after 15 s, and `ray start` keeps waiting for it."""


class NotPermitted(Exception):
    """This machine does not permit what was asked of it; the message says what and why."""


@dataclass
class Node:
    """One Ray node and its address."""

    name: str
    address: str
    resources: Mapping[str, float]
    cpus: float
    head: bool = False


@dataclass
class LocalCluster(ABC):
    """A head with 0 CPUs, and workers, for the time of a `with` block.

    Raises:
        NotPermitted: On entry: this machine cannot make such nodes.
    """

    folder: Path
    workers: Sequence[Mapping[str, float]] = ()
    """Custom resources of each worker, such as `{"engine": 1}`."""
    cpus: float = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of all nodes' processes besides PATH, HOME and PYTHONPATH; the cluster's secrets go here."""
    object_store_mb: int = 100
    redis: str | None = None
    """HOST:PORT of a Redis that keeps the head's state, from which the next head continues."""
    redis_password: str = ""
    python: str = sys.executable
    """Interpreter that runs Ray. A job's `python` comes from the same folder."""
    can_cut: ClassVar[bool]
    """Whether nodes have a cable that `cut` can pull."""

    def __post_init__(self) -> None:
        self.mark = secrets.token_hex(3)
        self.bridge = f"tt{self.mark}"
        self.subnet = self.choose_subnet()
        self.token = self.folder / "token"
        # The path of a socket has at most 107 characters, so sessions cannot be below a deep folder.
        self.sessions = Path(tempfile.gettempdir()) / self.bridge
        self.port, self.dashboard_port = PORT, 8265
        self.nodes: dict[str, Node] = {}

    # -- life ------------------------------------------------------------------------------------

    @contextmanager
    def network(self) -> Iterator[str]:
        """Make the network without nodes, for services that must run before them.

        Yields:
            This machine's address in the network.
        """
        try:
            self._make_network()
            yield f"{self.subnet}.1"
        finally:
            self._remove_network()

    def __enter__(self) -> LocalCluster:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.token.touch(mode=0o600)
        self.token.write_text(secrets.token_hex(32))
        self.sessions.mkdir()
        try:
            self._make_network()
            self.add("head", cpus=0)
            for number, resources in enumerate(self.workers):
                self.add(f"worker{number}", resources=resources)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.nodes:
            self.kill(name)
            self._unwire(name)
        self._remove_network()
        shutil.rmtree(self.sessions, ignore_errors=True)

    @property
    def head(self) -> str:
        """Return the head's address, as `ray.init` takes it."""
        return f"{self.nodes['head'].address}:{self.port}"

    @property
    def jobs(self) -> str:
        """Return the address of the job API, which this cluster's head opens to all its nodes."""
        return f"http://{self.nodes['head'].address}:{self.dashboard_port}"

    @property
    def client(self) -> dict[str, str]:
        """Return the variables of a client of this cluster that runs on this machine."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}

    def add(self, name: str, *, cpus: float | None = None, resources: Mapping[str, float] = {}) -> Node:
        """Start a Ray node at an address of its own. The first node is the head."""
        head = not self.nodes
        address = f"{self.subnet}.{len(self.nodes) + 2}"
        node = Node(name, address, resources, self.cpus if cpus is None else cpus, head)
        self.nodes[name] = node
        self._wire(node)
        self.start(name)
        return node

    def start(self, name: str) -> None:
        """Start Ray on a node, for the first time or again.

        Raises:
            RuntimeError: Ray did not start in `TRIES` attempts.
        """
        for tries_left in reversed(range(TRIES)):
            try:
                self._start(name)
                return
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                if not tries_left:
                    raise RuntimeError(f"{name} does not start: {error}") from error
                self.kill(name)

    def _start(self, name: str) -> None:
        """Run `ray start` once. The token exists already: without one, Ray would run open to everybody."""
        node = self.nodes[name]
        # On a real machine, a head that comes back finds no process of its cluster. Here it would: Ray looks
        # among all processes for the address in this file, and the processes of the other nodes have it.
        (self._disk(name) / "ray_current_cluster").unlink(missing_ok=True)
        command = [self.python, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats"]
        command += [f"--node-ip-address={node.address}", f"--num-cpus={node.cpus:g}"]
        command += [f"--resources={json.dumps(dict(node.resources))}"]
        command += [f"--object-store-memory={self.object_store_mb * 10**6}"]
        if node.head:
            # On the node's own address: only this machine reaches the network, and the token guards it.
            command += ["--head", f"--port={self.port}", f"--dashboard-host={node.address}"]
            if self.redis:
                command += [f"--redis-password={self.redis_password}"]
        else:
            command += [f"--address={self.head}"]
        command += self._options(node)
        done = subprocess.run(
            self.inside(name, *command),
            env=self.environment_of(name),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=START_S,
        )
        if done.returncode:
            raise RuntimeError(f"ray start on {name}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
        if node.head:
            self._wait_for_jobs()

    def environment_of(self, name: str) -> dict[str, str]:
        """Return the variables of a node's processes."""
        kept = {key: os.environ[key] for key in ("HOME", "PYTHONPATH") if key in os.environ}
        # A job's `python` is the first one on the PATH of `ray start`.
        kept["PATH"] = os.pathsep.join([str(Path(self.python).parent), os.environ.get("PATH", os.defpath)])
        redis = {"RAY_REDIS_ADDRESS": self.redis} if self.redis and self.nodes[name].head else {}
        return {
            **kept,
            "RAY_raylet_start_wait_time_s": str(RAYLET_S),
            **redis,
            **self.environment,
            **self.client,
        }

    def kill(self, name: str) -> None:
        """Power a node off: send SIGKILL to all its processes.

        Raises:
            RuntimeError: Processes are left after 20 s.
        """
        deadline = time.monotonic() + 20
        while pids := self.pids(name):
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name}: processes {pids} do not die")
            time.sleep(0.05)

    # -- what the kinds of cluster differ in -----------------------------------------------------

    @abstractmethod
    def choose_subnet(self) -> str:
        """Return the first three numbers of this cluster's addresses, which other clusters do not use."""

    @abstractmethod
    def inside(self, name: str, *command: str) -> list[str]:
        """Return the command line that runs a command on a node, with `environment_of(name)`."""

    @abstractmethod
    def pids(self, name: str) -> list[int]:
        """Return the ids of a node's processes."""

    @abstractmethod
    def cut(self, name: str) -> None:
        """Pull a node's cable: its processes live, but nothing reaches them or comes from them.

        Raises:
            NotPermitted: The node has no cable (`can_cut`).
        """

    @abstractmethod
    def reconnect(self, name: str) -> None:
        """Plug a node's cable in again.

        Raises:
            NotPermitted: The node has no cable (`can_cut`).
        """

    @abstractmethod
    def _make_network(self) -> None: ...

    @abstractmethod
    def _remove_network(self) -> None: ...

    @abstractmethod
    def _wire(self, node: Node) -> None: ...

    @abstractmethod
    def _unwire(self, name: str) -> None: ...

    @abstractmethod
    def _options(self, node: Node) -> list[str]:
        """Return further options of `ray start`."""

    # -- internals -------------------------------------------------------------------------------

    def _disk(self, name: str) -> Path:
        return self.folder / "disks" / name

    def _wait_for_jobs(self) -> None:
        request = urllib.request.Request(
            f"{self.jobs}/api/version", headers={"Authorization": f"Bearer {self.token.read_text()}"}
        )
        deadline = time.monotonic() + START_S
        while True:
            try:
                with urllib.request.urlopen(request, timeout=5):
                    return
            except OSError:
                if time.monotonic() > deadline:
                    logs = (self.folder / "disks").glob("head/session_2*/logs/dashboard.log")
                    said = "\n".join(log.read_text()[-3000:] for log in logs)
                    raise RuntimeError(f"no dashboard: {said}") from None
                time.sleep(0.2)
