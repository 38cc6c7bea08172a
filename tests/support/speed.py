"""How slow this machine is, measured once a session: time limits of tests are multiples of it."""

from __future__ import annotations

import os
import statistics
import time
import zlib
from collections.abc import Callable

REFERENCE_S = 0.12
"""Seconds that `_work` takes on the machine on which limits and costs were measured (docs/testing.md)."""
SAMPLES = 5
VARIABLE = "TRIMTAB_TEST_SLOWNESS"


def measure() -> float:
    """Return how many times longer than on the reference machine a second of work takes here; at least 1.

    The result goes into the environment, for pytest's workers and for every process that a test starts.
    """
    if VARIABLE not in os.environ:
        taken = statistics.median(_work() for _ in range(SAMPLES))
        os.environ[VARIABLE] = f"{max(1.0, taken / REFERENCE_S):.2f}"
    return float(os.environ[VARIABLE])


def patience(seconds: float) -> float:
    """Scale a time limit, in seconds on the reference machine, to this machine."""
    return seconds * measure()


def wait_until(condition: Callable[[], object], seconds: float, why: str = "it never came true") -> None:
    """Return as soon as the condition holds. Raises AssertionError after so many seconds, scaled."""
    deadline = time.monotonic() + patience(seconds)
    while not condition():
        assert time.monotonic() < deadline, why
        time.sleep(0.2)  # what is waited for belongs to other processes, and nothing tells when it comes


def _work() -> float:
    """Seconds of one thread for a fixed piece of work, most of it in the interpreter and some in C."""
    start = time.perf_counter()
    block = bytes(number * number % 251 for number in range(1_000_000))
    # No hash: some processors have instructions for those, which tell nothing about the rest.
    zlib.compress(block)
    return time.perf_counter() - start
