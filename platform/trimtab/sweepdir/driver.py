"""Which process drives a sweep, so that `trimtab stop` can reach it and nothing else.

`driver.json` in the sweep's folder names the process by id, start time, boot and machine: an id that the
system has given to another process since then is never signalled. The lock beside it is held by an open
file, so that it ends with the process, however that ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import psutil
from filelock import FileLock, Timeout

from trimtab.errors import NotFoundError, SpecError, StorageError
from trimtab.sweepdir.atomic import read_mapping, write_whole
from trimtab.sweepdir.home import TRAINING, command

FILE = "driver.json"
LOCK = "driver.lock"
DAMAGED = "if no process drives the sweep any more, remove that file"
SAME_S = 1.5
"""Most that two readings of a process's start time differ: the boot time is in whole seconds."""


class _Record(TypedDict):
    pid: int
    started: float | str
    """Seconds between the machine's boot and the process's start. Text where an older trimtab wrote it."""
    host: str
    boot: NotRequired[str]
    """The machine's boot, where it has a name: after another one the same id may start at the same time."""


@contextmanager
def registered(sweep_dir: Path) -> Iterator[None]:
    """Make this process the sweep's driver for the time of the block.

    Raises:
        SpecError: another process drives it.
    """
    lock = FileLock(sweep_dir / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        record = _record(sweep_dir)
        if record is None:
            raise SpecError(
                f"{_what(sweep_dir)} has just been started by another process; try again in a moment"
            ) from None
        pid = record["pid"]
        raise SpecError(
            f"{_what(sweep_dir)} is driven by process {pid}; stop it first: {_stop_command(sweep_dir, pid)}"
        ) from None
    try:
        _check_elsewhere(sweep_dir)
        yield from _recorded(sweep_dir / FILE)
    finally:
        lock.release()


def _recorded(file: Path) -> Iterator[None]:
    record = _Record(pid=os.getpid(), started=_started(psutil.Process()), host=socket.gethostname())
    if boot := _boot():
        record["boot"] = boot
    write_whole(file, json.dumps(record))
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _check_elsewhere(sweep_dir: Path) -> None:
    """Refuse a sweep of another machine's: whether a process lives there cannot be seen from here."""
    record = _record(sweep_dir)
    if record is not None and record["host"] != socket.gethostname():
        raise SpecError(
            f"{_what(sweep_dir)} was driven by process {record['pid']} on {record['host']} and has not "
            f"said that it ended; if it has, remove {sweep_dir / FILE}"
        )


def running(sweep_dir: Path) -> int | None:
    """Return the id of the process that drives the sweep on this machine; None if there is none."""
    record = _record(sweep_dir)
    if record is None or record["host"] != socket.gethostname():
        return None
    # The start time of an older trimtab cannot be compared: rather no driver than a stranger.
    if isinstance(record["started"], str) or record.get("boot", _boot()) != _boot():
        return None
    try:
        process = psutil.Process(record["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.pid if abs(_started(process) - record["started"]) < SAME_S else None
    except psutil.NoSuchProcess:
        return None


def stop(sweep_dir: Path) -> int:
    """Interrupt the sweep's driver, as Ctrl-C would; return its process id.

    Raises:
        NotFoundError: nothing drives the sweep, or a process on another machine does.
    """
    record = _record(sweep_dir)
    if record is not None and record["host"] != socket.gethostname():
        there = _stop_command(sweep_dir, record["pid"])
        raise NotFoundError(f"{_what(sweep_dir)} runs on {record['host']}; run '{there}' there")
    pid = running(sweep_dir)
    if pid is None:
        raise NotFoundError(f"{_what(sweep_dir)} is not running; there is nothing to stop")
    os.kill(pid, signal.SIGINT)
    return pid


def _what(sweep_dir: Path) -> str:
    return f"{'training' if sweep_dir.parent.name == TRAINING else 'sweep'} {sweep_dir.name!r}"


def _stop_command(sweep_dir: Path, pid: int) -> str:
    """Return what to type; `trimtab stop` knows sweeps alone."""
    if sweep_dir.parent.name == TRAINING:
        return f"kill -INT {pid}"
    return command(f"stop {sweep_dir.name}", sweep_dir.parent.parent)


def _record(sweep_dir: Path) -> _Record | None:
    try:
        loaded = read_mapping(sweep_dir / FILE, DAMAGED)
    except FileNotFoundError:
        return None
    if not {"pid", "started", "host"} <= loaded.keys():
        raise StorageError(f"{sweep_dir / FILE} is damaged: it names no process; {DAMAGED}")
    return cast("_Record", loaded)


def _boot() -> str | None:
    """Return Linux's id of this boot; None on other systems."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _started(process: psutil.Process) -> float:
    """Return when a process started, in seconds since the machine's boot.

    By the wall clock the same process seems to have started at another time after the clock was adjusted,
    which adds up over a sweep of days.
    """
    return process.create_time() - psutil.boot_time()
