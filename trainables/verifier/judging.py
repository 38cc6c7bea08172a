"""What runs inside a verifier worker process. Standard library only: it must start in a moment.

Wire format, little endian. Parent to worker: `<I` length, then a pickled list of (response, answer).
Worker to parent: one record for "ready" and one per answer, `<BdI` (status, correct, bytes of detail) and the
detail in UTF-8. One record per answer is what tells the parent which answer a worker is stuck at.
"""

from __future__ import annotations

import fcntl
import importlib
import math
import os
import pickle
import select
import signal
import struct
import sys
from collections.abc import Callable
from typing import BinaryIO

LENGTH = struct.Struct("<I")
RECORD = struct.Struct("<BdI")
OK, ERROR, READY, BROKEN = 0, 1, 100, 101
"""Record status. READY and BROKEN (the judge cannot be imported) speak of the worker, the others of an
answer."""
DETAIL = 500
"""Longest detail, in characters."""


def main() -> None:
    """Serve chunks until the parent closes the pipe or dies. Arguments: judge, lifeline file descriptor."""
    die_with_parent(int(sys.argv[2]))
    # The judge may print: keep the wire to ourselves and send its output where the logs go.
    requests = os.fdopen(os.dup(0), "rb")
    out = os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    try:
        judge = load_judge(sys.argv[1])
    except Exception as error:  # noqa: BLE001 - a user's module may raise anything; the parent reports it
        send(out, BROKEN, 0.0, f"{type(error).__name__}: {error}")
        return
    send(out, READY, 0.0, "")
    while (pairs := receive(requests)) is not None:
        for response, answer in pairs:
            send(out, *judged(judge, response, answer))


def load_judge(path: str) -> Callable[[str, str], float]:
    """The function at `package.module:function`."""
    module, _, name = path.partition(":")
    judge: Callable[[str, str], float] = getattr(importlib.import_module(module), name)
    return judge


def judged(judge: Callable[[str, str], float], response: str, answer: str) -> tuple[int, float, str]:
    """Status, correctness and detail of one answer."""
    try:
        correct = float(judge(response, answer))
    except Exception as error:  # noqa: BLE001 - becomes verdict ERROR, which is never a zero reward
        return ERROR, 0.0, f"{type(error).__name__}: {error}"
    if math.isnan(correct) or not 0.0 <= correct <= 1.0:
        return ERROR, 0.0, f"judge returned {correct}; return a number in [0, 1]"
    return OK, correct, ""


def die_with_parent(lifeline: int) -> None:
    """Have the kernel kill this process once the other end of the pipe `lifeline` is gone.

    Nothing is ever written to it; its end of file comes as SIGIO, whose default action is to terminate. That
    needs no cooperation, so it also works while a judge loops in C with the interpreter locked. (Linux'
    PR_SET_PDEATHSIG fires when the parent's *thread* ends, which in a Ray actor can be any time.)
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # the parent was faster
        sys.exit(1)


def send(out: int, status: int, correct: float, detail: str) -> None:
    """Write one record."""
    text = detail[:DETAIL].encode(errors="replace")
    data = RECORD.pack(status, correct, len(text)) + text
    while data:
        data = data[os.write(out, data) :]


def receive(requests: BinaryIO) -> list[tuple[str, str]] | None:
    """Read one chunk; None at the end."""
    head = requests.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    pairs: list[tuple[str, str]] = pickle.loads(requests.read(LENGTH.unpack(head)[0]))
    return pairs
