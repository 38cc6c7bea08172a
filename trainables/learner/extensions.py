"""Keeps DeepSpeed from compiling anything.

On CPU, DeepSpeed builds its `deepspeed_shm_comm` extension when it wraps torch.distributed: 42 s, a C++
compiler and the Python headers, and a `lock` file on which every later process hangs should the first be
killed meanwhile. Only its tensor-parallel *inference* all-reduce uses it; training does not.
"""

from __future__ import annotations


def skip_shm_extension() -> None:
    """Make `deepspeed.initialize` go without the extension. Call it before, once per process."""
    from deepspeed import ops

    # The table DeepSpeed itself consults; an operator marked incompatible is one it does without.
    ops.__compatible_ops__["deepspeed_shm_comm"] = False
