"""The guardian against real processes: a killed driver's go with it, a clean driver's and strangers' stay."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import subprocess
import sys

import psutil
import pytest
from speed import patience

from trimtab.errors import MachineError
from trimtab.session import guardian

DRIVER = """
import subprocess, sys, time
from trimtab.session.guardian import guarded
with guarded():
    # A session of its own, as Ray's daemons have: it would outlive its parent.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print(child.pid, flush=True)
    if sys.argv[1] == "die":
        time.sleep(600)
"""


def start(what: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, what], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    return driver, psutil.Process(int(driver.stdout.readline()))


@pytest.fixture
def stranger():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def test_a_killed_driver_takes_what_it_started_with_it(stranger):
    driver, child = start("die")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    gone, alive = psutil.wait_procs([child], timeout=patience(30))
    assert gone
    assert not alive
    assert stranger.poll() is None, "only what carries the sweep's mark is touched"


HIDES = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={})
print(child.pid, flush=True)
time.sleep(600)
"""


def test_what_a_marked_process_started_is_known_by_its_parent_and_stays_known(stranger):
    mark = secrets.token_hex(16)
    parent = subprocess.Popen(
        [sys.executable, "-c", HIDES],
        env={**os.environ, guardian.MARK: mark},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    hidden = psutil.Process(int(parent.stdout.readline()))
    try:
        seen = guardian.family(mark)
        assert seen == {psutil.Process(parent.pid), hidden}, "its own environment does not say so"
        parent.kill()
        parent.wait()
        assert guardian.family(mark) == set()
        assert guardian.living(seen) == {hidden}
    finally:
        hidden.kill()
        parent.kill()
        parent.wait()


def refuse(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The system starts no process so many times, as a sandbox under load was seen to do."""
    left = [times]
    started = subprocess.Popen

    def popen(*arguments, **options):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.EFAULT, "Bad address")
        return started(*arguments, **options)

    monkeypatch.setattr(guardian.subprocess, "Popen", popen)
    monkeypatch.setattr(guardian, "PAUSE_S", 0.0)


def test_a_system_that_refuses_a_process_once_is_asked_again(monkeypatch):
    refuse(monkeypatch, guardian.ATTEMPTS - 1)
    with guardian.guarded():
        assert os.environ[guardian.MARK]


def test_a_system_that_goes_on_refusing_is_named(monkeypatch):
    refuse(monkeypatch, guardian.ATTEMPTS)
    with pytest.raises(MachineError, match=r"did not start.*Bad address.*try again"), guardian.guarded():
        pytest.fail("nothing runs unguarded")
    assert guardian.MARK not in os.environ


def test_a_driver_that_ends_by_itself_leaves_ending_to_its_own_code():
    driver, child = start("live")
    assert driver.wait(timeout=patience(30)) == 0
    assert child.is_running()
    child.kill()
