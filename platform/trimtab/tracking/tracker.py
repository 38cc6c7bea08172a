"""Follow a sweep's journal and send it to MLflow, in a thread beside the control loop.

The journal on disk is the queue, so a store that is down, slow or restarted delays tracking but not training.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from pathlib import Path

from trimtab.errors import TrackingError
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepdir.journal import Status, Tail
from trimtab.sweepspec.spec import Work
from trimtab.tracking.operations import LogPoints, Operation
from trimtab.tracking.position import Position
from trimtab.tracking.send import Sender
from trimtab.tracking.store import is_permanent, transient_errors
from trimtab.tracking.translate import Translator

POLL_S = 1.0
"""Time between two reads of the journal."""
MAX_BACKOFF_S = 30.0


class Tracker:
    """Records one sweep in MLflow: a parent run, and a child for each configuration and seed."""

    def __init__(self, sweep_dir: Path, uri: str, sweep: str, spec: Work) -> None:
        """`uri`: a resolved MLflow tracking URI. Nothing is sent before `start`."""
        self._uri = uri
        self._tail = Tail(sweep_dir)
        self._translator = Translator(spec.reference_label, spec.seeds)
        self._sender = Sender(uri, sweep, SweepDir(sweep_dir).claim_id(), spec)
        self._position = Position(sweep_dir, uri)
        self._outbox: deque[Operation] = deque()
        self._refused: list[str] = []
        self._problem: str | None = None
        self._status: Status | None = None
        self._ended = False
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trimtab-tracker", daemon=True)

    @property
    def parent_run_id(self) -> str | None:
        """Return the MLflow id of the sweep's run, or None until the store was reached."""
        return self._sender.parent_run_id

    @property
    def problem(self) -> str | None:
        """Return why the store cannot be reached at present, or None if it can."""
        return self._problem

    def start(self) -> None:
        """Start to follow the journal. This returns immediately, whether or not the store answers."""
        self._thread.start()

    def close(self, status: Status, timeout_s: float = 60.0) -> list[str]:
        """Send the rest of the journal, close all runs, and return what could not be sent.

        Args:
            status: Status of the sweep.
            timeout_s: Maximum wait, in seconds.

        Returns:
            One message per part that is missing in MLflow; the sweep's journal still holds it.
        """
        self._status = status
        self._closing.set()
        self._thread.join(timeout_s)
        complete = not self._thread.is_alive() and not self._outbox and self._ended
        self._abandoned.set()
        return self._refused if complete else [*self._refused, self._describe_rest(timeout_s)]

    def _run(self) -> None:
        backoff_s = 0.0
        # A file that was damaged while the sweep runs may be restored while it runs.
        failures: tuple[type[Exception], ...] = (*transient_errors(), TrackingError)
        while not self._abandoned.is_set():
            closing = self._closing.is_set()
            self._read(closing)
            try:
                self._drain(closing)
            except failures as error:
                self._sender.disconnect()
                self._problem = f"{type(error).__name__}: {error}"
                backoff_s = min(max(1.0, 2 * backoff_s), MAX_BACKOFF_S)
                self._wait(backoff_s)
                continue
            self._problem, backoff_s = None, 0.0
            if closing:
                return
            self._wait(POLL_S)

    def _wait(self, seconds: float) -> None:
        """Sleep, but wake up when the sweep closes. From then on, retry every second."""
        if self._closing.is_set():
            self._abandoned.wait(min(seconds, 1.0))
        else:
            self._closing.wait(seconds)

    def _read(self, closing: bool) -> None:
        self._outbox.extend(self._translator.feed(self._tail.read_at()))
        if closing and self._status is not None:
            self._outbox.extend(self._translator.end(self._status, int(time.time() * 1000)))

    def _drain(self, closing: bool) -> None:
        """Send in order. An operation leaves the outbox once the store holds it."""
        if self._sender.connect():
            self._position.clear()
        try:
            while self._outbox and not self._abandoned.is_set():
                operation = self._position.rest(self._outbox[0])
                if operation is not None:
                    self._send(operation)
                    self._position.advance(operation)
                self._outbox.popleft()
            if not self._outbox:
                self._position.settle(self._tail.position)
        finally:
            self._position.save()
        if closing and not self._outbox and self._status is not None:
            self._sender.end(self._status)
            self._ended = True

    def _send(self, operation: Operation) -> None:
        try:
            self._sender.send(operation)
        except transient_errors() as error:
            if not is_permanent(error):
                raise
            self._refused.append(f"{self._uri} refused {_describe(operation)}: {error}")

    def _describe_rest(self, timeout_s: float) -> str:
        kinds = Counter("metrics" if isinstance(op, LogPoints) else "run updates" for op in self._outbox)
        metrics = sum(len(op.points) for op in self._outbox if isinstance(op, LogPoints))
        runs = len({op.key for op in self._outbox})
        what = f"{metrics} metric values and {kinds['run updates']} run updates of {runs} runs"
        why = self._problem or f"the store did not take them within {timeout_s:g} s"
        if self._problem is None and not self._thread.is_alive():
            why = "the tracker crashed: its traceback is in the output above"
        return f"{what} are not in {self._uri} ({why}); the sweep's records/ folder holds them"


def _describe(operation: Operation) -> str:
    trial, seed = operation.key
    return f"{type(operation).__name__} of trial {trial} seed {seed}"
