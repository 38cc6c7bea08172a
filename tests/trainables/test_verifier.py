"""The verifier against judges that really hang, crash, exit and lie."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from speed import patience

from trainables.strategies.batch import Verdict
from trainables.tasks.base import Problem
from trainables.verifier.verifier import Verifier
from trimtab.errors import VerifierError

HANG_S = patience(1.0)
"""Deadline of an answer where one hangs: the others must not miss it on a machine that is busy."""

JUDGE = '''
import ctypes, os, re, subprocess, sys, time

def judge(response, answer):
    """What to do stands in the response."""
    if response == "right": return 1.0
    if response == "half": return 0.5
    if response.startswith("hang"): os.write(2, b"begun\\n")  # in one piece: two processes write at once
    if response == "hang": time.sleep(1e6)
    if response == "hang-gil": ctypes.PyDLL(None).pause()  # PyDLL keeps the interpreter locked
    if response == "hang-child": subprocess.run(["sleep", "1000000"])
    if response == "raise": raise ValueError("no such thing")
    if response == "segfault": ctypes.string_at(0)
    if response == "exit": sys.exit(3)
    if response == "kill": os.kill(os.getpid(), 9)
    if response == "nan": return float("nan")
    if response == "two": return 2.0
    if response == "none": return None
    if response == "print": print("noise " * 10000)
    if response == "pid": return os.getpid() / 2**30
    if response == "heavy": return float(any(m in sys.modules for m in ("torch", "ray", "transformers")))
    return 0.0
'''


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Import path of the judge above, in a directory that only this process has on its path."""
    directory = tmp_path_factory.mktemp("judges")
    (directory / "obedient_judge.py").write_text(JUDGE)
    (directory / "broken_judge.py").write_text("raise RuntimeError('not today')")
    (directory / "dying_judge.py").write_text("import os; os._exit(7)")
    sys.path.insert(0, str(directory))
    yield "obedient_judge:judge"
    sys.path.remove(str(directory))


def verdicts(verifier: Verifier, responses: list[str]) -> list[Verdict]:
    return [judgement.verdict for judgement in verifier.verify([(response, "") for response in responses])]


def gone(pid: int) -> bool:
    """Whether the process is no more. A zombie that nobody reaped still counts as there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def wait_gone(pid: int, limit_s: float = patience(20.0)) -> bool:
    """Wait for the end of a process that is not our child, through a pidfd and not by polling."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], limit_s)[0])
    finally:
        os.close(fd)


@pytest.mark.parametrize("processes", [1, 3])
def test_judgements_come_in_order(judge: str, processes: int) -> None:
    responses = ["right", "wrong", "half"] * 100
    with Verifier(judge, processes) as verifier:
        judgements = verifier.verify([(response, "") for response in responses])
        assert [judgement.correct for judgement in judgements] == [1.0, 0.0, 0.5] * 100
        assert {judgement.verdict for judgement in judgements} == {Verdict.OK}
        assert verifier.verify([]) == []


@pytest.mark.parametrize("hang", ["hang", "hang-gil", "hang-child"])
def test_a_hanging_answer_times_out_alone(judge: str, hang: str) -> None:
    with Verifier(judge, timeout_s=HANG_S) as verifier:
        verdicts(verifier, ["right"])
        (before,) = verifier.pids()
        judgements = verifier.verify([(response, "") for response in ["right", hang, "right", "wrong"]])
        assert [j.verdict for j in judgements] == [Verdict.OK, Verdict.TIMEOUT, Verdict.OK, Verdict.OK]
        assert [j.correct for j in judgements] == [1.0, 0.0, 1.0, 0.0]
        assert judgements[1].detail == f"no verdict within verifier.timeout_s={HANG_S}"
        assert gone(before)
        assert verifier.pids() != [before]


def test_hangs_are_shared_over_the_processes(judge: str) -> None:
    with Verifier(judge, processes=4, timeout_s=5 * HANG_S) as verifier:
        verdicts(verifier, ["right"] * 8)
        start = time.monotonic()
        assert verdicts(verifier, ["hang"] * 4 + ["right"] * 4) == [Verdict.TIMEOUT] * 4 + [Verdict.OK] * 4
        assert time.monotonic() - start < 3.5 * 5 * HANG_S, "one after another takes four deadlines"


@pytest.mark.parametrize(
    ("crash", "detail"),
    [
        ("raise", "ValueError: no such thing"),
        ("segfault", "the judge ended its process with code -11"),
        ("exit", "the judge ended its process with code 3"),
        ("kill", "the judge ended its process with code -9"),
        ("nan", "judge returned nan; return a number in [0, 1]"),
        ("two", "judge returned 2.0; return a number in [0, 1]"),
        ("none", "TypeError"),
    ],
)
def test_a_crash_is_an_error_and_not_a_wrong_answer(judge: str, crash: str, detail: str) -> None:
    with Verifier(judge) as verifier:
        judgements = verifier.verify([(response, "") for response in ["right", crash, "right"]])
        assert [j.verdict for j in judgements] == [Verdict.OK, Verdict.ERROR, Verdict.OK]
        assert detail in judgements[1].detail


def test_every_answer_kills_its_process(judge: str) -> None:
    with Verifier(judge, processes=2) as verifier:
        assert verdicts(verifier, ["kill"] * 20) == [Verdict.ERROR] * 20
        assert verdicts(verifier, ["right"]) == [Verdict.OK]


def test_a_process_killed_while_idle_costs_nothing(judge: str) -> None:
    with Verifier(judge, processes=2) as verifier:
        verdicts(verifier, ["right"] * 4)
        for pid in verifier.pids():
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert verdicts(verifier, ["right"] * 10) == [Verdict.OK] * 10


def test_a_process_killed_while_starting_costs_nothing(judge: str) -> None:
    with Verifier(judge, processes=2) as verifier:
        for pid in verifier.pids():
            os.kill(pid, signal.SIGKILL)
        assert verdicts(verifier, ["right"] * 10) == [Verdict.OK] * 10


def test_a_judge_that_prints_does_not_disturb(judge: str) -> None:
    with Verifier(judge) as verifier:
        assert verdicts(verifier, ["print", "right"]) == [Verdict.OK, Verdict.OK]


def test_long_responses(judge: str) -> None:
    with Verifier(judge, processes=2) as verifier:
        assert verdicts(verifier, ["x" * 1_000_000] * 20) == [Verdict.OK] * 20


def test_processes_are_light(judge: str) -> None:
    with Verifier(judge) as verifier:
        assert verifier.verify([("heavy", "")])[0].correct == 0.0


def test_one_process_serves_many_calls(judge: str) -> None:
    with Verifier(judge) as verifier:
        pids = {verifier.verify([("pid", "")])[0].correct for _ in range(5)}
        assert pids == {verifier.pids()[0] / 2**30}


def test_works_off_the_main_thread(judge: str) -> None:
    """As in a Ray actor; and the processes outlive the thread that started them."""
    verifiers: list[Verifier] = []
    thread = threading.Thread(target=lambda: verifiers.append(Verifier(judge)))
    thread.start()
    thread.join()
    result: list[Verdict] = []
    with verifiers[0] as verifier:
        for _ in range(2):
            thread = threading.Thread(target=lambda: result.extend(verdicts(verifier, ["right", "raise"])))
            thread.start()
            thread.join()
    assert result == [Verdict.OK, Verdict.ERROR] * 2


def test_close_leaves_no_process(judge: str) -> None:
    verifier = Verifier(judge, processes=3, timeout_s=HANG_S)
    verdicts(verifier, ["right", "hang", "right"])
    pids = verifier.pids()
    assert len(pids) == 3
    verifier.close()
    assert all(gone(pid) for pid in pids)
    verifier.close()
    with pytest.raises(VerifierError, match="verifier is closed"):
        verifier.verify([("right", "")])


PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
from trainables.verifier.verifier import Verifier
verifier = Verifier("obedient_judge:judge", processes=2, timeout_s=1e6)
verifier.verify([("right", "")] * 8)
print(*verifier.pids(), flush=True)
verifier.verify([(sys.argv[2], "")] * 2)
input()
"""


@pytest.mark.parametrize("busy_with", ["right", "hang", "hang-gil"])
def test_processes_die_with_a_parent_that_is_killed(judge: str, busy_with: str) -> None:
    """A real SIGKILL: the parent cleans up nothing, and a judge may hold the interpreter lock."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, sys.path[0], busy_with],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        try:
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            assert len(pids) == 2
            if busy_with != "right":
                assert [parent.stderr.readline() for _ in pids] == ["begun\n"] * 2
        finally:
            parent.kill()  # or the end of the block would wait for it
        assert all(wait_gone(pid) for pid in pids)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("broken_judge:judge", r"'broken_judge:judge' cannot be imported \(RuntimeError: not today\)"),
        ("no_such_module:judge", "cannot be imported .ModuleNotFoundError"),
        ("obedient_judge:no_such_function", "cannot be imported .AttributeError"),
        ("dying_judge:judge", "3 processes in a row ended before they were ready, the last with code 7"),
    ],
)
def test_a_judge_that_cannot_be_imported(judge: str, path: str, message: str) -> None:
    with Verifier(path) as verifier:
        with pytest.raises(VerifierError, match=message):
            verifier.verify([("right", "")])
        assert verifier.closed, "whoever used it again would wait for processes that are gone"
        with pytest.raises(VerifierError, match="closed"):
            verifier.verify([("right", "")])


def test_golden_answers(judge: str) -> None:
    good = [Problem(prompt="", answer="right")] * 100
    with Verifier(judge) as verifier:
        verifier.check_golden(good)
        with pytest.raises(VerifierError, match=r"refuses 1 of 50 .* being 'wrong' \(OK, correct=0.0\)"):
            verifier.check_golden([Problem(prompt="", answer="wrong"), *good[:49]])
        with pytest.raises(VerifierError, match=r"being 'raise' \(ValueError: no such thing\)"):
            verifier.check_golden([Problem(prompt="", answer="raise")])
        verifier.check_golden([Problem(prompt="", answer="wrong"), *good[:49]], max_failure_rate=0.05)


def best(measure: Callable[[], object], rounds: int = 20) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        measure()
        times.append(time.perf_counter() - start)
    return min(times)


def test_128_easy_answers_cost_a_few_milliseconds() -> None:
    pairs = [(str(i), str(i % 7)) for i in range(128)]
    with Verifier("trainables.verifier.judge_exact:exact_match") as verifier:
        assert best(lambda: verifier.verify(pairs)) < patience(0.005)


def test_the_childs_module_is_found_from_elsewhere(
    judge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verifier process gets this process's import path; the working directory does not matter."""
    monkeypatch.chdir(tmp_path)
    with Verifier(judge) as verifier:
        assert verdicts(verifier, ["right"]) == [Verdict.OK]
