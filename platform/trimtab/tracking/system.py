"""System metrics of each node while a sweep runs: CPU, memory, disk, network, GPUs."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from trimtab.gpus import installed_gpus
from trimtab.sweepdir import journal

EVERY_S = 10.0
GB = 1e9


class NodeMeter:
    """Reads the system metrics of this machine. The first reading has no network rates."""

    def __init__(self) -> None:
        name = re.sub(r"[^\w.-]", "_", socket.gethostname())
        self.key = f"node-{name}"
        self._before: tuple[float, Any] | None = None
        psutil.cpu_percent()

    def event(self) -> dict[str, Any]:
        """Return a reading as a journal event."""
        return {"event": "system", "trial": self.key, "time": time.time(), "metrics": self._read()}

    def _read(self) -> dict[str, float]:
        memory = psutil.virtual_memory()
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_gigabytes": memory.used / GB,
            "system_memory_usage_percentage": memory.percent,
            "disk_available_gigabytes": psutil.disk_usage("/").free / GB,
        }
        now, network = time.monotonic(), psutil.net_io_counters()
        if self._before is not None:
            seconds, was = now - self._before[0], self._before[1]
            found["network_receive_megabytes_per_s"] = (network.bytes_recv - was.bytes_recv) / 1e6 / seconds
            found["network_transmit_megabytes_per_s"] = (network.bytes_sent - was.bytes_sent) / 1e6 / seconds
        self._before = (now, network)
        return {**found, **_gpus()}


@contextmanager
def metered(sweep_dir: Path) -> Iterator[None]:
    """Sample this machine into the sweep's journal while the block runs."""
    meter, ended = NodeMeter(), threading.Event()

    def sample() -> None:
        while not ended.wait(EVERY_S):
            journal.append(sweep_dir, meter.event())

    thread = threading.Thread(target=sample, name="trimtab-system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class NodeActor:
    """Samples the node that Ray places it on. On a cluster, the driver sees only its own node."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self._meter = NodeMeter()

    def run(self) -> None:
        """Sample until the actor is killed."""
        while True:
            time.sleep(EVERY_S)
            self._broker.record.remote(self._meter.event())


@contextmanager
def metered_nodes(broker: Any) -> Iterator[None]:
    """Sample every node of the cluster while the block runs. Nodes that join later are not sampled."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    actors = [
        ray.remote(NodeActor)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote(broker)
        for node in ray.nodes()
        if node["Alive"]
    ]
    for actor in actors:
        actor.run.remote()
    try:
        yield
    finally:
        for actor in actors:
            ray.kill(actor)


def _gpus() -> dict[str, float]:
    """Return utilisation and memory of NVIDIA GPUs, as far as the driver says; nothing without GPUs."""
    found: dict[str, float] = {}
    for number, gpu in enumerate(installed_gpus()):
        if gpu.utilization is not None:
            found[f"gpu_{number}_utilization_percentage"] = gpu.utilization
        if gpu.used_bytes is not None:
            found[f"gpu_{number}_memory_usage_gigabytes"] = gpu.used_bytes / GB
    return found
