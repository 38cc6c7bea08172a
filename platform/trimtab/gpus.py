"""NVIDIA GPUs of this machine, by the driver's own library (NVML)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One GPU. What the driver does not say (a shared memory, a MIG slice without permission) is None."""

    name: str
    memory_bytes: int | None
    used_bytes: int | None = None
    utilization: float | None = None
    """Share of the last moments in which it computed, in percent."""


def installed_gpus() -> list[Gpu]:
    """List the machine's GPUs as they are now; empty without a driver."""
    try:
        import pynvml
    except ImportError:  # an incomplete installation: `trimtab doctor` must live to say so
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [
            _read(pynvml, pynvml.nvmlDeviceGetHandleByIndex(k)) for k in range(pynvml.nvmlDeviceGetCount())
        ]
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


def _read(nvml: Any, handle: Any) -> Gpu:
    def said(query: Callable[[Any], Any]) -> Any:
        try:
            return query(handle)
        except nvml.NVMLError:
            return None

    memory, rates = said(nvml.nvmlDeviceGetMemoryInfo), said(nvml.nvmlDeviceGetUtilizationRates)
    return Gpu(
        nvml.nvmlDeviceGetName(handle),
        None if memory is None else int(memory.total),
        None if memory is None else int(memory.used),
        None if rates is None else float(rates.gpu),
    )
