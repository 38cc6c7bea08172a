"""What kind of failure an exception is: what happens to the trial, and whether the slot can continue."""

from __future__ import annotations

import errno
import traceback
from dataclasses import dataclass

import ray.exceptions

from trainables.errors import (
    DivergedError,
    EngineLost,
    LeaseLost,
    ModelError,
    SpecError,
    StorageError,
    UncleanLease,
    VerifierError,
)
from trainables.worker.outcome import Cause

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
ALLOCATOR = ("can't allocate memory", "out of memory", "Cannot allocate memory")
"""What torch's allocators write into plain RuntimeErrors."""


@dataclass(frozen=True)
class Failure:
    """How a run failed."""

    cause: Cause
    message: str
    traceback: str
    breaks_slot: bool
    """True: processes of the slot are dead or in an unknown state and must be replaced."""
    unclean: bool = False
    """True: the processes live, but a reset does not restore their first state."""


def classify(error: BaseException) -> Failure:
    """Tell what kind of failure an exception is that the slot's rank 0 caught."""
    inner = _unwrapped(error)
    trace = "".join(traceback.format_exception(error))
    cause = _cause(inner)
    # An error in a spec reads the same here as when the spec is loaded: without the name of its class.
    message = str(inner) if isinstance(inner, SpecError) else f"{type(inner).__name__}: {inner}"
    return Failure(
        cause,
        message,
        trace,
        _breaks_slot(error),
        isinstance(error, UncleanLease),
    )


def _unwrapped(error: BaseException) -> BaseException:
    """Take what another process raised out of Ray's wrapper."""
    if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, BaseException):
        return error.cause
    return error


def _cause(error: BaseException) -> Cause:
    if _is_out_of_memory(error):
        return "out_of_memory"
    if isinstance(error, EngineLost):
        cause = error.__cause__
        return "out_of_memory" if cause is not None and _is_out_of_memory(_unwrapped(cause)) else "lost"
    if isinstance(error, LeaseLost):
        # The error of the process that failed first explains more than the others' vain wait for it.
        return _cause(_unwrapped(error.__cause__)) if error.__cause__ is not None else "lost"
    if isinstance(error, ray.exceptions.RayError):
        return "lost"
    if isinstance(error, DivergedError):
        return "diverged"
    if isinstance(error, VerifierError):
        return "verifier"
    if isinstance(error, SpecError | ModelError | StorageError):
        return "user"
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return "user"
    return "bug"


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | ray.exceptions.OutOfMemoryError):
        return True
    # Compared by name, because the trial's client does not import torch.
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATOR)


def _breaks_slot(error: BaseException) -> bool:
    if isinstance(error, ray.exceptions.RayTaskError):
        return False
    return isinstance(error, LeaseLost | ray.exceptions.RayError)
