"""What runs inside a verifier process. Standard library only: the process must start in milliseconds.

Wire format, little endian. Parent to child: `<I` length, then a pickled list of (response, answer).
Child to parent: one reply for "ready" and one per answer, `<BdI` (status, correct, bytes of detail) and the
detail in UTF-8. A reply per answer tells the parent which answer the child is stuck at.
"""

from __future__ import annotations

import fcntl
import math
import os
import pickle
import pkgutil
import select
import signal
import struct
import sys
from collections.abc import Callable
from typing import BinaryIO

LENGTH = struct.Struct("<I")
REPLY = struct.Struct("<BdI")
OK, ERROR, READY, BROKEN = 0, 1, 100, 101
"""Status of a reply. READY and BROKEN (the judge cannot be imported) are about the process, the others about
an answer."""
DETAIL = 500
"""Maximum length of a detail, in characters."""


def main() -> None:
    """Serve chunks until the parent closes the pipe or dies.

    `sys.argv` holds the judge's import path and the lifeline's file descriptor.
    """
    die_with_parent(int(sys.argv[2]))
    # A judge may print. Its output must not reach the pipe of the replies: send it where the logs go.
    requests = os.fdopen(os.dup(0), "rb")
    out = os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    try:
        judge = load_judge(sys.argv[1])
    except Exception as error:  # noqa: BLE001  # a user's module may raise anything; the parent reports it
        send(out, BROKEN, 0.0, f"{type(error).__name__}: {error}")
        return
    send(out, READY, 0.0, "")
    while (pairs := receive(requests)) is not None:
        for response, answer in pairs:
            send(out, *judged(judge, response, answer))


def load_judge(path: str) -> Callable[[str, str], float]:
    """Return the function at `package.module:function`. Raises what the import raises, or TypeError."""
    judge: Callable[[str, str], float] = pkgutil.resolve_name(path)
    if not callable(judge):
        raise TypeError(f"{path!r} is not a function; use `package.module:function`")
    return judge


def judged(judge: Callable[[str, str], float], response: str, answer: str) -> tuple[int, float, str]:
    """Judge one answer. Return status, correctness in [0, 1] and detail."""
    try:
        correct = float(judge(response, answer))
    except Exception as error:  # noqa: BLE001  # becomes verdict ERROR, which is never a zero reward
        return ERROR, 0.0, f"{type(error).__name__}: {error}"
    if math.isnan(correct) or not 0.0 <= correct <= 1.0:
        return ERROR, 0.0, f"judge returned {correct}; return a number in [0, 1]"
    return OK, correct, ""


def die_with_parent(lifeline: int) -> None:
    """Have the kernel kill this process once the other end of the pipe `lifeline` is gone.

    Nothing is ever written to the pipe. Its end of file raises SIGIO, whose default action is to terminate.
    That needs no cooperation, so it works even while a judge loops in C and holds the interpreter lock.
    (Linux's PR_SET_PDEATHSIG fires when the parent's *thread* ends, which in a Ray actor can be any time.)
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # the parent died before SIGIO was set up
        sys.exit(1)


def send(out: int, status: int, correct: float, detail: str) -> None:
    """Write one reply."""
    text = detail[:DETAIL].encode(errors="replace")
    data = REPLY.pack(status, correct, len(text)) + text
    while data:
        data = data[os.write(out, data) :]


def receive(requests: BinaryIO) -> list[tuple[str, str]] | None:
    """Read one chunk. Return None at the end of the stream."""
    head = requests.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    pairs: list[tuple[str, str]] = pickle.loads(requests.read(LENGTH.unpack(head)[0]))
    return pairs
