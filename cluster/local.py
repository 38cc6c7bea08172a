"""A Ray cluster of several nodes on this one Linux machine: every node a network namespace of its own.

    python -m cluster.local --folder /tmp/nodes --nodes 3 --cpus 1      # as root; Ctrl-C ends it

Nodes have addresses, a network between them that can be cut, and nothing else in common but the disk: what
happens to a real cluster can be tried here. The machine itself reaches them over the same bridge. Needs
`ip` (iproute2) and the right to make network namespaces; `--loopback` (`cluster.loopback`) needs neither.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

SUBNET = "10.211.{k}"
PORT = 6379
START_S = 120.0
TRIES = 3
RAYLET_S = 60
"""Wait of `ray start` for its raylet. A raylet gives up by itself when its agent has no port after 15 s, as
happens on a crowded machine, and `ray start` goes on waiting for it."""


class NotPermitted(Exception):
    """This machine cannot make network namespaces; the message says why."""


@dataclass
class Node:
    """One network namespace and the Ray node in it."""

    name: str
    address: str
    resources: Mapping[str, float]
    cpus: float
    head: bool = False


@dataclass
class LocalCluster:
    """Head (0 CPUs) and workers. `workers`: custom resources of each, such as `{"engine": 1}`."""

    folder: Path
    workers: Sequence[Mapping[str, float]] = ()
    cpus: float = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of every node's processes, beside PATH, HOME and PYTHONPATH; secrets of the cluster go here."""
    object_store_mb: int = 100
    redis: str | None = None
    """HOST:PORT of a Redis that keeps the head's state, for the next head to continue from."""
    redis_password: str = ""
    python: str = sys.executable
    """Interpreter that Ray runs in, and by its folder a job's `python`."""
    can_cut: ClassVar[bool] = True
    """Whether nodes have a cable that `cut` can pull."""

    def __post_init__(self) -> None:
        self.mark = secrets.token_hex(3)
        self.bridge = f"tt{self.mark}"
        self.subnet = SUBNET.format(k=int(self.mark[:2], 16))
        self.token = self.folder / "token"
        # Paths of sockets may have 107 characters: not below a deep folder.
        self.sessions = Path(tempfile.gettempdir()) / self.bridge
        self.port, self.dashboard_port = PORT, 8265
        self.nodes: dict[str, Node] = {}

    # -- life ------------------------------------------------------------------------------------

    @contextmanager
    def network(self) -> Iterator[str]:
        """The bridge alone, for services that are there before the nodes; yields this machine's address."""
        try:
            self._network()
            yield f"{self.subnet}.1"
        finally:
            self._unnetwork()

    def __enter__(self) -> LocalCluster:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.token.touch(mode=0o600)
        self.token.write_text(secrets.token_hex(32))
        self.sessions.mkdir()
        try:
            self._network()
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
        self._unnetwork()
        shutil.rmtree(self.sessions, ignore_errors=True)

    @property
    def head(self) -> str:
        """Address of the head, as `ray.init` takes it."""
        return f"{self.nodes['head'].address}:{self.port}"

    @property
    def jobs(self) -> str:
        """Address of the job API. It listens on the head's loopback; this cluster is asked to open it."""
        return f"http://{self.nodes['head'].address}:{self.dashboard_port}"

    @property
    def client(self) -> dict[str, str]:
        """Environment of a client of this cluster on the machine itself."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}

    def add(self, name: str, *, cpus: float | None = None, resources: Mapping[str, float] = {}) -> Node:
        """Start a Ray node at an address of its own. The first is the head."""
        head = not self.nodes
        address = f"{self.subnet}.{len(self.nodes) + 2}"
        node = Node(name, address, resources, self.cpus if cpus is None else cpus, head)
        self.nodes[name] = node
        self._wire(node)
        self.start(name)
        return node

    def start(self, name: str) -> None:
        """Start Ray on a node (again). RuntimeError: it did not start in `TRIES` attempts."""
        for tries_left in reversed(range(TRIES)):
            try:
                self._start(name)
                return
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                if not tries_left:
                    raise RuntimeError(f"{name} does not start: {error}") from error
                self.kill(name)

    def _start(self, name: str) -> None:
        """The token is there before: `ray start` without one runs open."""
        node = self.nodes[name]
        # A head that comes back finds no process of its cluster on its machine. Here it would: Ray looks for
        # the address that this file names among all processes, and those of the other nodes bear it.
        (self._disk(name) / "ray_current_cluster").unlink(missing_ok=True)
        command = [self.python, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats"]
        command += [f"--node-ip-address={node.address}", f"--num-cpus={node.cpus:g}"]
        command += [f"--resources={json.dumps(dict(node.resources))}"]
        command += [f"--object-store-memory={self.object_store_mb * 10**6}"]
        if node.head:
            # On the node's own address: the namespaces are the cluster's network, and the token guards it.
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

    def inside(self, name: str, *command: str) -> list[str]:
        """The command line that runs a command on a node, with `environment_of(name)`."""
        disk = self._disk(name)
        disk.mkdir(parents=True, exist_ok=True)
        # `ip netns exec` gives a mount namespace too: for Ray sessions each node has its own disk.
        mount = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
        there = ["sh", "-c", mount, "sh", str(disk), str(self.sessions), *command]
        return ["ip", "netns", "exec", self._namespace(name), *there]

    def _disk(self, name: str) -> Path:
        return self.folder / "disks" / name

    def environment_of(self, name: str) -> dict[str, str]:
        """The environment of a node's processes."""
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
        """Power off: SIGKILL for every process of the node."""
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

    def cut(self, name: str) -> None:
        """Pull the cable: the node's processes live, nothing reaches them or comes from them.

        NotPermitted: there is none (`can_cut`).
        """
        run("ip", "-n", self._namespace(name), "link", "set", "eth0", "down")

    def mend(self, name: str) -> None:
        """Put the cable back."""
        namespace = self._namespace(name)
        run("ip", "-n", namespace, "link", "set", "eth0", "up")
        run("ip", "-n", namespace, "route", "replace", "default", "via", f"{self.subnet}.1")

    def pids(self, name: str) -> list[int]:
        listing = run("ip", "netns", "pids", self._namespace(name), check=False)
        return [int(pid) for pid in listing.split()]

    # -- internals -------------------------------------------------------------------------------

    def _namespace(self, name: str) -> str:
        return f"trimtab-{self.mark}-{name}"

    def _wire(self, node: Node) -> None:
        """Make the node's namespace and put a cable from it into the bridge."""
        namespace, cable = self._namespace(node.name), f"{self.bridge}{len(self.nodes)}"
        run("ip", "netns", "add", namespace)
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        run("ip", "link", "set", cable, "master", self.bridge, "up")
        run("ip", "-n", namespace, "addr", "add", f"{node.address}/24", "dev", "eth0")
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        run("ip", "-n", namespace, "link", "set", "eth0", "up")
        run("ip", "-n", namespace, "route", "add", "default", "via", f"{self.subnet}.1")

    def _unwire(self, name: str) -> None:
        run("ip", "netns", "del", self._namespace(name), check=False)

    def _unnetwork(self) -> None:
        run("ip", "link", "del", self.bridge, check=False)

    def _options(self, node: Node) -> list[str]:
        """Further options of `ray start`. Workers take the head's path, which is another disk on each."""
        return [f"--temp-dir={self.sessions}"] if node.head else []

    def _network(self) -> None:
        if shutil.which("ip") is None:
            raise NotPermitted("`ip` is missing; install iproute2")
        if Path(f"/sys/class/net/{self.bridge}").exists():
            return
        try:
            run("ip", "link", "add", self.bridge, "type", "bridge")
            run("ip", "addr", "add", f"{self.subnet}.1/24", "dev", self.bridge)
            run("ip", "link", "set", self.bridge, "up")
            run("ip", "netns", "add", self._namespace("probe"))
            run("ip", "netns", "del", self._namespace("probe"))
        except subprocess.CalledProcessError as error:
            raise NotPermitted(f"network namespaces are not permitted: {error.stderr.strip()}") from None

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


def run(*command: str, check: bool = True, **options: Any) -> str:
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=30, **options).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where Ray's files and the token go")
    parser.add_argument("--nodes", type=int, default=2, help="workers beside the head")
    parser.add_argument("--cpus", type=float, default=1, help="CPUs that each worker offers")
    parser.add_argument("--loopback", action="store_true", help="loopback addresses: no root, no cables")
    options = parser.parse_args()
    workers = [{"learner": 1.0, "engine": 1.0}] * options.nodes
    from cluster.loopback import LoopbackCluster

    made = LoopbackCluster if options.loopback else LocalCluster
    with made(options.folder, workers, options.cpus) as cluster:
        print(f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={cluster.token}")
        print(f"trimtab submit SPEC --address {cluster.jobs} --image installed", flush=True)
        ends = {signal.SIGINT, signal.SIGTERM}
        # Not before: what `ray start` starts would inherit it.
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
