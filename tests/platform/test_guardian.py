"""The guardian against real processes: a killed driver's go with it, a clean driver's and strangers' stay."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

DRIVER = """
import subprocess, sys, time
from trimtab.guardian import guarded
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
    gone, alive = psutil.wait_procs([child], timeout=30)
    assert gone
    assert not alive
    assert stranger.poll() is None, "only what carries the sweep's mark is touched"


def test_a_driver_that_ends_by_itself_leaves_ending_to_its_own_code():
    driver, child = start("live")
    assert driver.wait(timeout=30) == 0
    assert child.is_running()
    child.kill()
