"""Which process drives a sweep, so that `trimtab stop` can reach it and nothing else.

`driver.json` in the sweep's folder names the process by id, start time and machine: an id that the system
has given to another process since then is never signalled.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trimtab.errors import NotFoundError, SpecError
from trimtab.sweepdir.home import command

FILE = "driver.json"
LOCK = "driver.lock"


@contextmanager
def registered(sweep_dir: Path) -> Iterator[None]:
    """This process drives the sweep for the time of the block. SpecError if another one does."""
    file = sweep_dir / FILE
    with (sweep_dir / LOCK).open("w") as lock:
        try:
            # Held by the open file: it ends with the process, however that ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpecError(
                f"sweep {sweep_dir.name!r} is driven by process {running(sweep_dir)}; stop it first: "
                f"{_stop_command(sweep_dir)}"
            ) from None
        _check_elsewhere(sweep_dir)
        yield from _recorded(file)


def _recorded(file: Path) -> Iterator[None]:
    text = json.dumps({"pid": os.getpid(), "started": _started(os.getpid()), "host": socket.gethostname()})
    partial = file.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _check_elsewhere(sweep_dir: Path) -> None:
    """Whether a process on another machine lives cannot be seen from here."""
    record = _record(sweep_dir)
    if record is not None and record["host"] != socket.gethostname():
        raise SpecError(
            f"sweep {sweep_dir.name!r} was driven by process {record['pid']} on {record['host']} and has not "
            f"said that it ended; if it has, remove {sweep_dir / FILE}"
        )


def running(sweep_dir: Path) -> int | None:
    """Id of the process that drives the sweep on this machine; None if there is none (any more)."""
    record = _record(sweep_dir)
    if record is None or record["host"] != socket.gethostname():
        return None
    pid = int(record["pid"])
    started = _started(pid)
    return pid if started is not None and started == record["started"] else None


def stop(sweep_dir: Path) -> int:
    """Interrupt the sweep's driver, as Ctrl-C would; returns its process id.

    NotFoundError: nothing drives the sweep, or a process on another machine does.
    """
    record = _record(sweep_dir)
    if record is not None and record["host"] != socket.gethostname():
        raise NotFoundError(
            f"sweep {sweep_dir.name!r} runs on {record['host']}; run '{_stop_command(sweep_dir)}' there"
        )
    pid = running(sweep_dir)
    if pid is None:
        raise NotFoundError(f"sweep {sweep_dir.name!r} is not running; there is nothing to stop")
    os.kill(pid, signal.SIGINT)
    return pid


def _stop_command(sweep_dir: Path) -> str:
    return command(f"stop {sweep_dir.name}", sweep_dir.parent.parent)


def _record(sweep_dir: Path) -> dict[str, str] | None:
    try:
        loaded: dict[str, str] = json.loads((sweep_dir / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return loaded


def _started(pid: int) -> str | None:
    """When the process started, in words that only ever compare equal for one process; None if it is gone."""
    if Path("/proc/self/stat").is_file():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        # Field 22, counted behind the command's name, which may hold spaces and parentheses.
        fields = stat.rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return None if fields[0] == "Z" else f"{boot}:{fields[19]}"
    listing = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listing.stdout.strip() or None
