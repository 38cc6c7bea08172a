"""Judging answers in processes that can be killed.

A judge may hang (symbolic algebra does), crash, or take the interpreter down with it. None of that may stop
training or pass for a wrong answer: a worker that overruns an answer's deadline is killed and replaced, and
only that answer is marked.
"""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from trainables.errors import VerifierError
from trainables.strategies.batch import Verdict
from trainables.verifier import judging
from trainables.verifier.handle import WorkerHandle

if TYPE_CHECKING:
    from trainables.tasks.base import Problem

LARGEST_CHUNK = 64
"""Answers sent to a worker at once: amortises the round trip, and keeps several workers evenly busy."""
START_TIMEOUT_S = 120.0
"""A worker that has not imported its judge by then never will."""
START_ATTEMPTS = 3
"""Starts that may fail in a row: one may be bad luck (out of memory), three are a broken judge."""


@dataclass(frozen=True)
class Judgement:
    """What the verifier says about one answer."""

    verdict: Verdict
    correct: float
    """Correctness in [0, 1]; 0 and without meaning unless the verdict is OK."""
    detail: str = ""
    """What went wrong, where something did."""


class VerifierPool:
    """`processes` workers that judge with the function at `judge` (`package.module:function`).

    Making a pool does not wait for the workers, the first `verify` does. Workers import neither torch nor
    Ray, and die with the process that made the pool, however it ends. Not for several threads at once.
    """

    def __init__(self, judge: str, processes: int = 1, timeout_s: float = 10.0) -> None:
        self._judge = judge
        self._timeout_s = timeout_s
        self._selector = selectors.DefaultSelector()
        self._workers = [self._start() for _ in range(processes)]
        self._failed_starts = 0
        self._closed = False

    def verify(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """Judge (response, reference answer) pairs, in order.

        Each hanging answer costs `timeout_s`, shared over the workers. Raises VerifierError where the pool is
        closed, the judge cannot be imported or a worker does not start; the pool is closed from then on.
        """
        if self._closed:
            raise VerifierError("verify: the verifier pool is closed; make a new VerifierPool")
        call = _Call(pairs)
        try:
            while call.unfinished:
                self._hand_out(call)
                for key, _ in self._selector.select(self._patience()):
                    self._collect(key.data, call)
                self._kill_overdue(call)
        except VerifierError:
            # Whoever uses it again must be told so, and not wait for workers that are gone.
            self.close()
            raise
        return call.results()

    def check_golden(
        self, problems: Sequence[Problem], sample: int = 64, max_failure_rate: float = 0.0
    ) -> None:
        """Judge reference answers against themselves: all but `max_failure_rate` of them must be right.

        Looks at `sample` problems spread over the list. Raises VerifierError with the first that fails.
        """
        chosen = problems[:: max(1, len(problems) // sample)][:sample]
        judgements = self.verify([(problem.answer, problem.answer) for problem in chosen])
        failed = [
            (problem, judgement)
            for problem, judgement in zip(chosen, judgements, strict=True)
            if judgement.verdict != Verdict.OK or judgement.correct != 1.0
        ]
        if len(failed) > max_failure_rate * len(chosen):
            problem, judgement = failed[0]
            reason = judgement.detail or f"{judgement.verdict.name}, correct={judgement.correct}"
            raise VerifierError(
                f"task: the judge {self._judge!r} refuses {len(failed)} of {len(chosen)} reference answers "
                f"as answers to their own question, the first being {problem.answer!r} ({reason}); check "
                "task.answer_field and the judge"
            )

    @property
    def closed(self) -> bool:
        """True: it judges no more."""
        return self._closed

    def pids(self) -> list[int]:
        """Process ids of the current workers."""
        return [handle.process.pid for handle in self._workers]

    def close(self) -> None:
        """Kill the workers and wait until they are gone. Twice is fine."""
        self._closed = True
        while self._workers:
            self._stop(self._workers[-1])
        self._selector.close()

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> WorkerHandle:
        handle = WorkerHandle(self._judge)
        self._selector.register(handle, selectors.EVENT_READ, handle)
        return handle

    def _stop(self, handle: WorkerHandle) -> list[tuple[int, float, str]]:
        self._selector.unregister(handle)
        self._workers.remove(handle)
        return handle.kill()

    def _hand_out(self, call: _Call) -> None:
        """Give every idle worker a chunk, and replace those that died idle."""
        for handle in list(self._workers):
            if call.todo and handle.ready and not handle.pending:
                size = min(LARGEST_CHUNK, -(-len(call.todo) // len(self._workers)))
                chunk = [call.todo.popleft() for _ in range(size)]
                if not handle.submit(chunk, [call.pairs[index] for index in chunk]):
                    call.todo.extendleft(reversed(chunk))
                    self._stop(handle)
                    self._workers.append(self._start())

    def _patience(self) -> float:
        """Seconds until the first deadline."""
        now = time.monotonic()
        deadlines = [limit for handle in self._workers if (limit := self._deadline(handle)) is not None]
        return max(0.0, min(deadlines, default=now) - now)

    def _deadline(self, handle: WorkerHandle) -> float | None:
        if not handle.ready:
            return handle.since + START_TIMEOUT_S
        return handle.since + self._timeout_s if handle.pending else None

    def _collect(self, handle: WorkerHandle, call: _Call) -> None:
        """Take in what a worker has written."""
        records, hung_up = handle.read()
        self._note(handle, records, call)
        if not hung_up:
            return
        self._note(handle, self._stop(handle), call)
        code = handle.process.returncode
        if not handle.ready:
            self._failed_starts += 1
            if self._failed_starts >= START_ATTEMPTS:
                raise VerifierError(
                    f"verifier: {START_ATTEMPTS} workers in a row ended before they were ready, the last "
                    f"with code {code}; see its log"
                )
        call.abandon(handle, Verdict.ERROR, f"the judge ended its process with code {code}")
        self._workers.append(self._start())

    def _note(self, handle: WorkerHandle, records: list[tuple[int, float, str]], call: _Call) -> None:
        for status, correct, detail in records:
            if status == judging.READY:
                handle.ready = True
                self._failed_starts = 0
            elif status == judging.BROKEN:
                raise VerifierError(f"task: the judge {self._judge!r} cannot be imported ({detail})")
            else:
                call.record(handle.pending.popleft(), Judgement(Verdict(status), correct, detail))

    def _kill_overdue(self, call: _Call) -> None:
        now = time.monotonic()
        for handle in list(self._workers):
            deadline = self._deadline(handle)
            if deadline is None or now < deadline:
                continue
            self._note(handle, self._stop(handle), call)
            if not handle.ready:
                raise VerifierError(
                    f"verifier: a worker was not ready after {START_TIMEOUT_S:.0f} s; the import of the "
                    f"judge {self._judge!r} hangs, or the machine is overloaded"
                )
            call.abandon(handle, Verdict.TIMEOUT, f"no verdict within verifier.timeout_s={self._timeout_s}")
            self._workers.append(self._start())


class _Call:
    """State of one `verify`."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.pairs = pairs
        self.todo = deque(range(len(pairs)))
        self.unfinished = len(pairs)
        self._judgements: dict[int, Judgement] = {}

    def record(self, index: int, judgement: Judgement) -> None:
        self._judgements[index] = judgement
        self.unfinished -= 1

    def abandon(self, handle: WorkerHandle, verdict: Verdict, detail: str) -> None:
        """Blame the answer a dead worker was working on, and give the rest of its chunk to others."""
        if handle.pending:
            self.record(handle.pending.popleft(), Judgement(verdict, 0.0, detail))
        self.todo.extendleft(reversed(handle.pending))
        handle.pending.clear()

    def results(self) -> list[Judgement]:
        return [self._judgements[index] for index in range(len(self.pairs))]
