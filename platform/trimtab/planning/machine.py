"""What this machine offers: CPU cores, GPUs, memory; inside a container, what the container may use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU."""

    name: str
    memory_bytes: int | None
    """None: the driver does not say, as where the GPU shares the host's memory."""


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


def installed_gpus() -> list[Gpu]:
    """List the machine's NVIDIA GPUs by the driver's library (NVML); empty without a driver."""
    try:
        import pynvml
    except ImportError:  # an incomplete installation: `trimtab doctor` must live to say so
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(k) for k in range(pynvml.nvmlDeviceGetCount())]
        return [Gpu(pynvml.nvmlDeviceGetName(handle), _gpu_memory(handle)) for handle in handles]
    except pynvml.NVMLError:  # a GPU that fell off the bus: none can be relied on
        return []
    finally:
        pynvml.nvmlShutdown()


def usable(gpus: list[Gpu]) -> list[Gpu]:
    """Return as many of the GPUs as `CUDA_VISIBLE_DEVICES` names; all of them where it is not set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return gpus
    return gpus[: len([device for device in visible.split(",") if device.strip() not in ("", "-1")])]


def smallest(gpus: list[Gpu]) -> int | None:
    """Return the memory in bytes of the smallest GPU; None if nothing is known."""
    return min((gpu.memory_bytes for gpu in gpus if gpu.memory_bytes is not None), default=None)


def _gpu_memory(handle: object) -> int | None:
    import pynvml

    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except pynvml.NVMLError:  # not told, as under MIG without permission; the GPU is there all the same
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
