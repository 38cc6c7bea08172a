"""trimtab: sweeps over the baselines of reinforcement learning with verifiable rewards.

Importing this package does not import torch, Ray, vLLM or DeepSpeed. The functions below load what they need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trimtab._version import __version__

if TYPE_CHECKING:
    from trimtab.api import plan, sweep

__all__ = ["__version__", "plan", "sweep"]


def __getattr__(name: str) -> Any:
    if name in ("plan", "sweep"):
        from trimtab import api

        return getattr(api, name)
    raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
