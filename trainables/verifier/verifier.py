"""The verifier: judges answers in processes that can be killed.

A judge may hang (symbolic algebra does), crash, or take the interpreter down with it. None of that may stop
training or count as a wrong answer: a process that overruns an answer's deadline is killed and replaced, and
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
from trainables.verifier.process import VerifierProcess

if TYPE_CHECKING:
    from trainables.tasks.base import Problem

LARGEST_CHUNK = 64
"""Answers sent to a process at once: amortises the round trip, and keeps all processes evenly busy."""
START_TIMEOUT_S = 120.0
"""A process that has not imported its judge after this many seconds never will."""
START_ATTEMPTS = 3
"""Consecutive failed starts after which the judge counts as broken: one may be bad luck (out of memory)."""


@dataclass(frozen=True)
class Judgement:
    """What the verifier says about one answer."""

    verdict: Verdict
    correct: float
    """Correctness in [0, 1]; meaningless (and 0) unless the verdict is OK."""
    detail: str = ""
    """What went wrong; empty if nothing did."""


class Verifier:
    """Judges with the function at `judge` (`package.module:function`) in `processes` processes.

    The constructor does not wait for the processes; the first `verify` does. They import neither torch nor
    Ray, and die with the process that made the verifier, however it ends. Not thread-safe.
    """

    def __init__(self, judge: str, processes: int = 1, timeout_s: float = 10.0) -> None:
        self._judge = judge
        self._timeout_s = timeout_s
        self._selector = selectors.DefaultSelector()
        self._processes = [self._start() for _ in range(processes)]
        self._failed_starts = 0
        self._closed = False

    def verify(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """Judge (response, reference answer) pairs. Return one judgement for each, in order.

        Each hanging answer keeps one process busy for `timeout_s` seconds.

        Raises:
            VerifierError: The verifier is closed, the judge cannot be imported, or a process does not start.
                The verifier is closed afterwards.
        """
        if self._closed:
            raise VerifierError("verify: the verifier is closed; make a new Verifier")
        call = _Call(pairs)
        try:
            while call.unfinished:
                self._hand_out(call)
                for key, _ in self._selector.select(self._patience()):
                    self._collect(key.data, call)
                self._kill_overdue(call)
        except VerifierError:
            # A later call must fail at once instead of waiting for processes that are gone.
            self.close()
            raise
        return call.results()

    def check_golden(
        self, problems: Sequence[Problem], sample: int = 64, max_failure_rate: float = 0.0
    ) -> None:
        """Judge reference answers against themselves: all but `max_failure_rate` of them must be right.

        Checks at most `sample` problems, spread evenly over the list.

        Raises:
            VerifierError: Too many fail; names the first.
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
        """True: `verify` refuses from now on."""
        return self._closed

    def pids(self) -> list[int]:
        """Return the ids of the current processes."""
        return [process.pid for process in self._processes]

    def close(self) -> None:
        """Kill the processes and wait until they are gone. Calling it twice is fine."""
        self._closed = True
        while self._processes:
            self._stop(self._processes[-1])
        self._selector.close()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> VerifierProcess:
        process = VerifierProcess(self._judge)
        self._selector.register(process, selectors.EVENT_READ, process)
        return process

    def _stop(self, process: VerifierProcess) -> list[tuple[int, float, str]]:
        self._selector.unregister(process)
        self._processes.remove(process)
        return process.kill()

    def _hand_out(self, call: _Call) -> None:
        """Give every idle process a chunk, and replace those that died idle."""
        for process in list(self._processes):
            if call.todo and process.ready and not process.pending:
                size = min(LARGEST_CHUNK, -(-len(call.todo) // len(self._processes)))
                chunk = [call.todo.popleft() for _ in range(size)]
                if not process.submit(chunk, [call.pairs[index] for index in chunk]):
                    call.todo.extendleft(reversed(chunk))
                    self._stop(process)
                    self._processes.append(self._start())

    def _patience(self) -> float:
        """Return the seconds until the first deadline."""
        now = time.monotonic()
        deadlines = [limit for process in self._processes if (limit := self._deadline(process)) is not None]
        return max(0.0, min(deadlines, default=now) - now)

    def _deadline(self, process: VerifierProcess) -> float | None:
        if not process.ready:
            return process.since + START_TIMEOUT_S
        return process.since + self._timeout_s if process.pending else None

    def _collect(self, process: VerifierProcess, call: _Call) -> None:
        """Take in what a process has written."""
        replies, hung_up = process.read()
        self._note(process, replies, call)
        if not hung_up:
            return
        self._note(process, self._stop(process), call)
        code = process.exit_code
        if not process.ready:
            self._failed_starts += 1
            if self._failed_starts >= START_ATTEMPTS:
                raise VerifierError(
                    f"verifier: {START_ATTEMPTS} processes in a row ended before they were ready, the last "
                    f"with code {code}; see its log"
                )
        call.abandon(process, Verdict.ERROR, f"the judge ended its process with code {code}")
        self._processes.append(self._start())

    def _note(self, process: VerifierProcess, replies: list[tuple[int, float, str]], call: _Call) -> None:
        for status, correct, detail in replies:
            if status == judging.READY:
                process.ready = True
                self._failed_starts = 0
            elif status == judging.BROKEN:
                raise VerifierError(f"task: the judge {self._judge!r} cannot be imported ({detail})")
            else:
                call.settle(process.pending.popleft(), Judgement(Verdict(status), correct, detail))

    def _kill_overdue(self, call: _Call) -> None:
        now = time.monotonic()
        for process in list(self._processes):
            deadline = self._deadline(process)
            if deadline is None or now < deadline:
                continue
            self._note(process, self._stop(process), call)
            if not process.ready:
                raise VerifierError(
                    f"verifier: a process was not ready after {START_TIMEOUT_S:.0f} s; the import of the "
                    f"judge {self._judge!r} hangs, or the machine is overloaded"
                )
            call.abandon(process, Verdict.TIMEOUT, f"no verdict within verifier.timeout_s={self._timeout_s}")
            self._processes.append(self._start())


class _Call:
    """State of one `verify`: which answers are still to be handed out, and the judgements so far."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.pairs = pairs
        self.todo = deque(range(len(pairs)))
        self.unfinished = len(pairs)
        self._judgements: dict[int, Judgement] = {}

    def settle(self, index: int, judgement: Judgement) -> None:
        """Enter the judgement of one answer."""
        self._judgements[index] = judgement
        self.unfinished -= 1

    def abandon(self, process: VerifierProcess, verdict: Verdict, detail: str) -> None:
        """Blame the answer that a dead process was working on, and give the rest of its chunk to others."""
        if process.pending:
            self.settle(process.pending.popleft(), Judgement(verdict, 0.0, detail))
        self.todo.extendleft(reversed(process.pending))
        process.pending.clear()

    def results(self) -> list[Judgement]:
        """Return all judgements, in the order of the pairs."""
        return [self._judgements[index] for index in range(len(self.pairs))]
