"""The parent's end of one verifier worker process."""

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
"""The worker finds the judge wherever this process would, so it gets this process's import path."""


class WorkerHandle:
    """Starts a worker and speaks its wire format (see trainables.verifier.judging)."""

    def __init__(self, judge: str) -> None:
        lifeline, self._lifeline = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, judge, str(lifeline), json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(lifeline,),
                start_new_session=True,  # Ctrl-C is for the parent; and a judge's children die with it
                bufsize=0,
            )
        finally:
            os.close(lifeline)
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("Popen gave no pipes")
        self._requests = self.process.stdin
        self._records = self.process.stdout
        self._buffer = b""
        self.ready = False
        self.pending: deque[int] = deque()
        """Indices of the answers in its hands; the first is the one it works on."""
        self.since = time.monotonic()
        """When it last gave a sign of life or got work."""

    def fileno(self) -> int:
        return self._records.fileno()

    def submit(self, indices: Sequence[int], pairs: Sequence[tuple[str, str]]) -> bool:
        """Hand an idle worker a chunk. False where it turns out to be dead; it then holds nothing."""
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
        """Records (status, correct, detail) that have arrived, and whether the worker has hung up.

        Blocks where nothing has arrived.
        """
        data = os.read(self.fileno(), 1 << 16)
        self._buffer += data
        self.since = time.monotonic()
        return list(self._parse()), not data

    def kill(self) -> list[tuple[int, float, str]]:
        """Kill the process and what it started; wait for its end. Returns its last records."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.set_blocking(self.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.fileno(), 1 << 16):
                self._buffer += data
        self._requests.close()
        self._records.close()
        os.close(self._lifeline)
        return list(self._parse())

    def _parse(self) -> Iterator[tuple[int, float, str]]:
        head = judging.RECORD.size
        while len(self._buffer) >= head:
            status, correct, length = judging.RECORD.unpack_from(self._buffer)
            if len(self._buffer) < head + length:
                return
            yield status, correct, self._buffer[head : head + length].decode()
            self._buffer = self._buffer[head + length :]
