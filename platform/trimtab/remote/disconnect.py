"""Ending a driver's connection to Ray."""

from __future__ import annotations

import gc


def shut_ray_down() -> None:
    """Call `ray.shutdown`, and keep Python's collector from running in another thread meanwhile.

    Ray 2.60 tears its core worker down while `global_worker` still names it. A reference to an object that is
    released in that time, as when the tracker's thread happens to collect garbage of Tune's, ends the whole
    process with exit code 1 and without a word.
    """
    import ray

    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if collects:
            gc.enable()
