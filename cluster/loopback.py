"""Nodes on loopback addresses, for machines that do not permit network namespaces.

Every node has its own address in 127.0.0.0/8, free ports, and a session folder. Everybody on this machine
reaches the nodes, so only the token guards them. There is no cable to pull. Linux only: other systems have
127.0.0.1 alone.
"""

from __future__ import annotations

import socket
from pathlib import Path

from cluster.nodes import LocalCluster, Node, NotPermitted

MARK = "TRIMTAB_LOCAL_NODE"
MARK_BYTES = 16_384
"""Ray's agents overwrite the beginning of their environment with their title, several KB of it."""


class LoopbackCluster(LocalCluster):
    """A cluster that needs neither root nor `ip`."""

    can_cut = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # Ray's GCS listens on every address, so two clusters on one machine need two ports.
        self.port = free_port(f"{self.subnet}.2")
        self.dashboard_port = free_port(f"{self.subnet}.2")

    def choose_subnet(self) -> str:
        return f"127.{1 + int(self.mark[:2], 16) % 254}.{int(self.mark[2:4], 16)}"

    def inside(self, name: str, *command: str) -> list[str]:
        self._session(name)
        return list(command)

    def environment_of(self, name: str) -> dict[str, str]:
        word = self._word(name)
        return {**super().environment_of(name), MARK: word * (MARK_BYTES // len(word))}

    def pids(self, name: str) -> list[int]:
        """Return the ids of the processes that inherited the node's mark."""
        mark = self._word(name).encode() * 2
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes():
                    found.append(int(process.name))
            except OSError:  # it has ended, or belongs to another user
                continue
        return found

    def cut(self, name: str) -> None:
        raise NotPermitted(f"{name} is on a loopback address: there is no cable to pull, only kill and start")

    reconnect = cut

    # -- internals -------------------------------------------------------------------------------

    def _wire(self, node: Node) -> None:
        """Do nothing: every address of 127.0.0.0/8 exists."""

    def _unwire(self, name: str) -> None:
        self._session(name).unlink(missing_ok=True)

    def _make_network(self) -> None:
        """Do nothing: the loopback device exists."""

    def _remove_network(self) -> None:
        """Do nothing: nothing was made."""

    def _options(self, node: Node) -> list[str]:
        """Name free ports, because all nodes share this machine's. Workers get theirs from the system."""
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
        """Return a short link to the node's disk: the path of a socket has at most 107 characters."""
        link = self.sessions / name
        if not link.is_symlink():
            self._disk(name).mkdir(parents=True, exist_ok=True)
            link.symlink_to(self._disk(name).resolve())
        return link

    def _word(self, name: str) -> str:
        return f"{self.bridge}/{name} "


def free_port(address: str) -> int:
    """Return a port on which nothing listens.

    Raises:
        NotPermitted: This machine does not have the address.
    """
    try:
        with socket.socket() as everywhere, socket.socket() as probe:
            everywhere.bind(("", 0))
            port = int(everywhere.getsockname()[1])
            everywhere.close()
            probe.bind((address, port))
            return port
    except OSError as error:
        raise NotPermitted(f"this machine does not have the address {address} ({error.strerror})") from None
