"""What this machine offers: CPU cores, GPUs, memory; inside a container, what the container may use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trimtab.gpus import installed_gpus, smallest, usable

GB = 1_000_000_000
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """Resources that can be given to slots."""

    cpus: float
    gpus: int
    memory_bytes: int
    gpu_memory_bytes: int | None = None
    """Memory of its smallest GPU; None if it has none, or if the driver does not say."""


def this_machine() -> Machine:
    """Return the resources of the machine or container that this process runs in."""
    found = installed_gpus()
    count = len(usable(found))
    return Machine(cpu_count(), count, memory_bytes(), smallest(found) if count else None)


def cpu_count() -> float:
    """Return the cores that this process may use: the smaller of its affinity and its cgroup's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = float(len(os.sched_getaffinity(0)))
    else:
        cores = float(os.cpu_count() or 1)
    quota, _, period = _read(CGROUP / "cpu.max").partition(" ")
    return min(cores, int(quota) / int(period)) if quota.isdigit() and period.isdigit() else cores


def memory_bytes() -> int:
    """Return the machine's memory, or its cgroup's limit where that is lower."""
    import psutil

    total = psutil.virtual_memory().total
    limit = _read(CGROUP / "memory.max")
    return min(total, int(limit)) if limit.isdigit() else total


def free_memory_bytes() -> int:
    """Return the memory that new processes can take without swapping."""
    import psutil

    return min(psutil.virtual_memory().available, memory_bytes())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
