"""Nodes on loopback addresses, for where network namespaces are not permitted (`cluster.local`).

    python -m cluster.local --loopback --folder /tmp/nodes --nodes 3 --cpus 1      # Ctrl-C ends it

Every node has an address of its own in 127.0.0.0/8, ports that were free, and a session folder. Whoever is on
this machine reaches them, so the token is all that guards them; and there is no cable to pull. Linux only:
other systems have 127.0.0.1 alone.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.local import LocalCluster, Node, NotPermitted

SUBNET = "127.{a}.{b}"
MARK = "TRIMTAB_LOCAL_NODE"
MARK_BYTES = 16_384
"""Ray's agents write their title over the beginning of their environment, several KB of it."""


class LoopbackCluster(LocalCluster):
    """The same head and workers without root. `cut` is NotPermitted."""

    can_cut = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.subnet = SUBNET.format(a=1 + int(self.mark[:2], 16) % 254, b=int(self.mark[2:4], 16))
        # Ray's server of states listens on every address: two clusters on one machine need two ports.
        self.port = free_port(f"{self.subnet}.2")
        self.dashboard_port = free_port(f"{self.subnet}.2")

    @contextmanager
    def network(self) -> Iterator[str]:
        yield f"{self.subnet}.1"

    def inside(self, name: str, *command: str) -> list[str]:
        self._session(name)
        return list(command)

    def environment_of(self, name: str) -> dict[str, str]:
        word = self._word(name)
        return {**super().environment_of(name), MARK: word * (MARK_BYTES // len(word))}

    def pids(self, name: str) -> list[int]:
        """Processes that inherited the node's mark."""
        mark = self._word(name).encode() * 2
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes():
                    found.append(int(process.name))
            except OSError:  # ended meanwhile, or somebody else's
                continue
        return found

    def cut(self, name: str) -> None:
        raise NotPermitted(f"{name} is on a loopback address: there is no cable to pull, only kill and start")

    mend = cut

    # -- internals -------------------------------------------------------------------------------

    def _wire(self, node: Node) -> None:
        """An address of 127.0.0.0/8 is there without anybody making it."""

    def _unwire(self, name: str) -> None:
        self._session(name).unlink(missing_ok=True)

    def _network(self) -> None:
        """Nor is there anything to lay between them."""

    def _unnetwork(self) -> None:
        """Nor to remove."""

    def _options(self, node: Node) -> list[str]:
        """Ports that no other node of this machine has; of the workers' the system hands out free ones."""
        ports = {"dashboard-agent-listen-port": free_port(node.address)}
        if node.head:
            ports |= {
                "dashboard-port": self.dashboard_port,
                "ray-client-server-port": free_port(node.address),
            }
        ports |= {"min-worker-port": 0, "max-worker-port": 0}
        return [f"--{name}={port}" for name, port in ports.items()] + [
            f"--temp-dir={self._session(node.name)}"
        ]

    def _session(self, name: str) -> Path:
        """A short name for the node's disk: paths of sockets may have 107 characters."""
        link = self.sessions / name
        if not link.is_symlink():
            self._disk(name).mkdir(parents=True, exist_ok=True)
            link.symlink_to(self._disk(name).resolve())
        return link

    def _word(self, name: str) -> str:
        return f"{self.bridge}/{name} "


def free_port(address: str) -> int:
    """A port that nobody listens on. NotPermitted: the address is none of this machine."""
    try:
        with socket.socket() as everywhere, socket.socket() as probe:
            everywhere.bind(("", 0))
            port = int(everywhere.getsockname()[1])
            everywhere.close()
            probe.bind((address, port))
            return port
    except OSError as error:
        raise NotPermitted(f"{address} is no address of this machine ({error.strerror})") from None
