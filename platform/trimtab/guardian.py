"""Ends what a sweep started when its driver is killed outright.

Ray's own processes follow a killed driver, but not all and not at once (seen with Ray 2.60: its dashboard and
runtime environment agents stay). The guardian is a small process beside the driver: both hold the ends of a
pipe. If the pipe closes before the driver has said that all is well, the guardian kills every process that
carries the sweep's mark in its environment, and nothing else.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

MARK = "TRIMTAB_SWEEP_MARK"
REPEATS = 128
"""Ray's agents set a title, which writes zeros over the first kilobyte or so of their environment. Of four
kilobytes of mark something is left, however small the rest of the environment is."""
DONE = b"done"
ATTEMPTS = 5
PAUSE_S = 0.2


@contextmanager
def guarded() -> Iterator[None]:
    """Processes started in this block do not outlive a driver that is killed in it."""
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
    """The guardian's process. MachineError: the system starts none."""
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


def marked(mark: str) -> list[psutil.Process]:
    """Processes that were started with this mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if mark in _environment(process.pid):
                found.append(process)
    return found


def _environment(pid: int) -> str:
    """Whatever the environment of a process holds, as one text."""
    file = Path(f"/proc/{pid}/environ")
    if file.parent.parent.joinpath("self").exists():
        # Read as it is: Ray's workers write their title over part of it, at which psutil stops parsing.
        return file.read_bytes().decode(errors="replace")
    return "\n".join(psutil.Process(pid).environ().values())


def main() -> None:
    if sys.stdin.buffer.read() == DONE:
        return
    # What is killed may have started something else meanwhile.
    for _ in range(10):
        processes = marked(sys.argv[1])
        if not processes:
            return
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=5)


if __name__ == "__main__":
    main()
