"""End what a session started when its driver is killed outright.

Ray's own processes follow a killed driver, but not all and not at once (Ray 2.60: its dashboard and runtime
environment agents try for a minute to report to a GCS that is gone). The guardian is a small process beside
the driver: both hold the ends of a pipe. If the pipe closes before the driver has said that all is well, the
guardian kills every process that carries the sweep's mark in its environment or was started by one that did,
and nothing else.
"""

from __future__ import annotations

import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

MARK = "TRIMTAB_SWEEP_MARK"
REPEATS = 128
"""Ray's workers set a title, which writes zeros over the beginning of their environment. Of four kilobytes of
mark something is mostly left; Ray's agents, whose environment is in no certain order, may lose all of it."""
LOOK_S, SELDOM_S = 2.0, 60.0
"""Between two looks at what the sweep has started, at first and after a while: Ray's agents come with Ray."""
DONE = b"done"
ATTEMPTS = 5
PAUSE_S = 0.2


@contextmanager
def guarded() -> Iterator[None]:
    """Keep processes that are started in this block from outliving a driver that is killed in it."""
    mark = secrets.token_hex(16)
    guardian = _started([sys.executable, __file__, mark])
    before = os.environ.get(MARK)
    os.environ[MARK] = mark * REPEATS
    try:
        yield
    finally:
        if before is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = before
        with suppress(subprocess.TimeoutExpired):
            guardian.communicate(DONE, timeout=10)


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    """Return the guardian's process.

    Raises:
        MachineError: the system starts no process.
    """
    for attempt in range(ATTEMPTS):
        try:
            # A session of its own: Ctrl-C in the terminal is for the driver.
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            # A sandbox under load may refuse once (seen: EFAULT from fork and exec) and not again.
            refusal = error
            time.sleep(PAUSE_S * attempt)
    from trimtab.errors import MachineError

    raise MachineError(
        f"the process that ends a killed sweep's workers did not start in {ATTEMPTS} attempts ({refusal}); "
        "see that this user may start processes (ulimit -u) and that memory is free, then try again"
    ) from refusal


def family(mark: str) -> set[psutil.Process]:
    """Return the processes started with this mark in their environment, and all that those have started."""
    ours, parents = set(), {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            parents[process] = process.ppid()
            if mark in _environment(process.pid):
                ours.add(process)
    found: set[psutil.Process] = set()
    while ours - found:
        found |= ours
        pids = {process.pid for process in found}
        ours = {process for process, parent in parents.items() if parent in pids}
    return found


def living(processes: set[psutil.Process]) -> set[psutil.Process]:
    """Return those that have not ended; a process that has got the id of one counts as ended."""
    alive = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                alive.add(process)
    return alive


def _environment(pid: int) -> str:
    """Return whatever the environment of a process holds, as one text."""
    file = Path(f"/proc/{pid}/environ")
    if file.parent.parent.joinpath("self").exists():
        # Read as it is: Ray's workers write their title over part of it, at which psutil stops parsing.
        return file.read_bytes().decode(errors="replace")
    return "\n".join(psutil.Process(pid).environ().values())


def main() -> None:
    mark = sys.argv[1]
    seen: set[psutil.Process] = set()
    # Raylets end at once with their driver: whose child an agent was cannot be seen afterwards.
    pause_s = LOOK_S
    while not select.select([sys.stdin], [], [], pause_s)[0]:
        seen = living(seen | family(mark))
        pause_s = min(1.2 * pause_s, SELDOM_S)
    if sys.stdin.buffer.read() == DONE:
        return
    # What is killed may have started something else meanwhile.
    for _ in range(10):
        seen = living(seen | family(mark))
        if not seen:
            return
        for process in seen:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(seen, timeout=5)


if __name__ == "__main__":
    main()
