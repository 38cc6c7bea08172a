"""Nodes in network namespaces of their own: they have nothing in common but the disk.

The network between nodes can be cut, so what happens to a real cluster can be tried here. This machine itself
reaches the nodes over the same bridge. Needs `ip` (iproute2) and the right to make network namespaces.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from cluster.nodes import LocalCluster, Node, NotPermitted


class NamespaceCluster(LocalCluster):
    """A cluster whose nodes have cables that can be pulled."""

    can_cut = True

    def choose_subnet(self) -> str:
        return f"10.211.{int(self.mark[:2], 16)}"

    def inside(self, name: str, *command: str) -> list[str]:
        disk = self._disk(name)
        disk.mkdir(parents=True, exist_ok=True)
        # `ip netns exec` gives a mount namespace too, so that every node has its own disk for Ray sessions.
        mount = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
        there = ["sh", "-c", mount, "sh", str(disk), str(self.sessions), *command]
        return ["ip", "netns", "exec", self._namespace(name), *there]

    def pids(self, name: str) -> list[int]:
        listing = run("ip", "netns", "pids", self._namespace(name), check=False)
        return [int(pid) for pid in listing.split()]

    def cut(self, name: str) -> None:
        run("ip", "-n", self._namespace(name), "link", "set", "eth0", "down")

    def reconnect(self, name: str) -> None:
        namespace = self._namespace(name)
        run("ip", "-n", namespace, "link", "set", "eth0", "up")
        run("ip", "-n", namespace, "route", "replace", "default", "via", f"{self.subnet}.1")

    # -- internals -------------------------------------------------------------------------------

    def _namespace(self, name: str) -> str:
        return f"trimtab-{self.mark}-{name}"

    def _wire(self, node: Node) -> None:
        """Make the node's namespace, and put a cable from it into the bridge."""
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

    def _make_network(self) -> None:
        if shutil.which("ip") is None:
            raise NotPermitted("`ip` is missing; install iproute2, or use --loopback")
        if Path(f"/sys/class/net/{self.bridge}").exists():
            return
        try:
            run("ip", "link", "add", self.bridge, "type", "bridge")
            run("ip", "addr", "add", f"{self.subnet}.1/24", "dev", self.bridge)
            run("ip", "link", "set", self.bridge, "up")
            run("ip", "netns", "add", self._namespace("probe"))
            run("ip", "netns", "del", self._namespace("probe"))
        except subprocess.CalledProcessError as error:
            raise NotPermitted(
                f"network namespaces are not permitted ({error.stderr.strip()}); use --loopback"
            ) from None

    def _remove_network(self) -> None:
        # Without `ip` there is nothing to remove, and the caller is to see NotPermitted.
        if shutil.which("ip") is not None:
            run("ip", "link", "del", self.bridge, check=False)

    def _options(self, node: Node) -> list[str]:
        """Name the head's session folder. Workers take the same path, which is another disk on each node."""
        return [f"--temp-dir={self.sessions}"] if node.head else []


def run(*command: str, check: bool = True) -> str:
    """Run a command for at most 30 s and return what it prints.

    Raises:
        CalledProcessError: It failed, and `check` is set.
    """
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=30).stdout
