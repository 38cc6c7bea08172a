"""The parent's end of one verifier process; `judging` is the child's."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence

from trainables.verifier import judging

_START = """
import json, sys
sys.path[:] = json.loads(sys.argv.pop())
from trainables.verifier.judging import main
main()
"""
"""The child gets this process's import path, so that it finds the judge wherever this process would."""


class VerifierProcess:
    """Starts a verifier process and speaks its wire format (see `trainables.verifier.judging`)."""

    def __init__(self, judge: str) -> None:
        lifeline, self._lifeline = os.pipe()
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-c", _START, judge, str(lifeline), json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(lifeline,),
                start_new_session=True,  # Ctrl-C is for the parent; a judge's own children are killed with it
                bufsize=0,
            )
        finally:
            os.close(lifeline)
        if self._popen.stdin is None or self._popen.stdout is None:
            raise RuntimeError("Popen gave no pipes")
        self._requests = self._popen.stdin
        self._replies = self._popen.stdout
        self._buffer = b""
        self.ready = False
        self.pending: deque[int] = deque()
        """Indices of the answers that it holds; it works on the first."""
        self.since = time.monotonic()
        """When it last gave a sign of life or got work."""

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative for a signal; None before `kill`."""
        return self._popen.returncode

    def fileno(self) -> int:
        """Return the descriptor that a selector waits for."""
        return self._replies.fileno()

    def submit(self, indices: Sequence[int], pairs: Sequence[tuple[str, str]]) -> bool:
        """Hand an idle process a chunk. Return False if it turns out to be dead; it then holds nothing."""
        data = pickle.dumps(list(pairs))
        frame = memoryview(judging.LENGTH.pack(len(data)) + data)
        try:
            while frame:
                frame = frame[os.write(self._requests.fileno(), frame) :]
        except BrokenPipeError:
            return False
        self.pending.extend(indices)
        self.since = time.monotonic()
        return True

    def read(self) -> tuple[list[tuple[int, float, str]], bool]:
        """Return the replies (status, correct, detail) that have arrived, and whether the child has hung up.

        Blocks until something arrives.
        """
        data = os.read(self.fileno(), 1 << 16)
        self._buffer += data
        self.since = time.monotonic()
        return list(self._parse()), not data

    def kill(self) -> list[tuple[int, float, str]]:
        """Kill the process and everything it started, and wait for its end. Return its last replies."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        os.set_blocking(self.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.fileno(), 1 << 16):
                self._buffer += data
        self._requests.close()
        self._replies.close()
        os.close(self._lifeline)
        return list(self._parse())

    def _parse(self) -> Iterator[tuple[int, float, str]]:
        head = judging.REPLY.size
        while len(self._buffer) >= head:
            status, correct, length = judging.REPLY.unpack_from(self._buffer)
            if len(self._buffer) < head + length:
                return
            yield status, correct, self._buffer[head : head + length].decode()
            self._buffer = self._buffer[head + length :]
