"""What this machine offers: CPU cores, GPUs, memory; inside a container, what the container may use."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """Resources that can be given to slots."""

    cpus: float
    gpus: int
    memory_bytes: int
    gpu_memory_bytes: int | None = None
    """Memory of its smallest GPU; None: not known, or there is none."""


def this_machine() -> Machine:
    """Resources of the machine or container that this process runs in."""
    gpus = len(gpu_names())
    return Machine(cpu_count(), gpus, memory_bytes(), gpu_memory_bytes() if gpus else None)


def cpu_count() -> float:
    """Cores that this process may use: the smaller of its affinity and its control group's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = float(len(os.sched_getaffinity(0)))
    else:
        cores = float(os.cpu_count() or 1)
    quota, _, period = _read(CGROUP / "cpu.max").partition(" ")
    return min(cores, int(quota) / int(period)) if quota.isdigit() and period.isdigit() else cores


def memory_bytes() -> int:
    """Memory of the machine, or the control group's limit where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(CGROUP / "memory.max")
    return min(total, int(limit)) if limit.isdigit() else total


def free_memory_bytes() -> int:
    """Memory that new processes can take without swapping; all of it where the system does not say."""
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return min(int(line.split()[1]) * 1024, memory_bytes())
    return memory_bytes()


def gpu_memory_bytes() -> int | None:
    """Memory of the smallest NVIDIA GPU here; None where the driver does not say."""
    sizes = [line.strip() for line in _nvidia_smi("memory.total", "nounits")]
    return min((int(size) * 2**20 for size in sizes if size.isdigit()), default=None)


def gpu_names() -> list[str]:
    """Names of the NVIDIA GPUs that this process may use; empty without a driver."""
    names = [line.partition(",")[2].strip() for line in _nvidia_smi("index,name") if "," in line]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return names
    return names[: len([device for device in visible.split(",") if device.strip() not in ("", "-1")])]


def _nvidia_smi(query: str, *options: str) -> list[str]:
    """One line a GPU; empty without a driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(
        ["nvidia-smi", f"--query-gpu={query}", f"--format={','.join(('csv', 'noheader', *options))}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return listing.stdout.splitlines() if listing.returncode == 0 else []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
