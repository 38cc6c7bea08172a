"""Keeps DeepSpeed from compiling anything.

On CPUs, DeepSpeed builds its `deepspeed_shm_comm` extension when it wraps torch.distributed. That takes 42 s,
a C++ compiler and the Python headers, and leaves a `lock` file on which every later process hangs if the
first one is killed meanwhile. Only DeepSpeed's tensor-parallel *inference* uses it; training does not.
"""

from __future__ import annotations


def skip_shm_extension() -> None:
    """Make `deepspeed.initialize` do without the extension. Call it first, once per process."""
    from deepspeed import ops

    # DeepSpeed consults this table, and does without an operator that is marked incompatible.
    ops.__compatible_ops__["deepspeed_shm_comm"] = False
