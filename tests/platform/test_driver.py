"""Names of sweeps, and who drives them."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from speed import patience, wait_until

from trimtab.errors import NotFoundError, SpecError
from trimtab.sweepdir import driver
from trimtab.sweepdir.atomic import write_whole
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepdir.home import tracking_uri


def test_names_of_a_family_are_numbered(tmp_path: Path) -> None:
    names = [SweepDir.create(tmp_path, "v05_small").name for _ in range(3)]
    assert names == ["v05_small", "v05_small-2", "v05_small-3"]


def test_a_given_name_in_use_is_refused(tmp_path: Path) -> None:
    SweepDir.create(tmp_path, "v05_small", "mine")
    with pytest.raises(SpecError, match="--name: 'mine' is in use"):
        SweepDir.create(tmp_path, "v05_small", "mine")


def test_of_sweeps_that_start_at_once_one_gets_the_name_and_none_shares_a_number(tmp_path: Path) -> None:
    together = Barrier(8)

    def start(name: str | None) -> str:
        together.wait(timeout=patience(30))
        try:
            return SweepDir.create(tmp_path, "v05_small", name).name
        except SpecError as refusal:
            return str(refusal)

    with ThreadPoolExecutor(8) as pool:
        named = list(pool.map(start, ["mine"] * 8))
        numbered = list(pool.map(start, [None] * 8))
    assert named.count("mine") == 1
    assert sum("'mine' is in use" in refusal for refusal in named) == 7
    assert sorted(numbered) == ["v05_small", *(f"v05_small-{number}" for number in range(2, 9))]


@pytest.mark.parametrize("name", ["../up", "", "a/b", ".hidden", "a" * 65])
def test_names_that_are_no_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="name"):
        SweepDir.create(tmp_path, "v05_small", name)


def test_an_unknown_sweep_names_the_known_ones(tmp_path: Path) -> None:
    SweepDir.create(tmp_path, "v05_small")
    with pytest.raises(NotFoundError, match="sweeps there: v05_small"):
        SweepDir.existing(tmp_path, "other")


def test_the_default_store_is_sqlite_in_the_home(tmp_path: Path) -> None:
    assert tracking_uri(tmp_path, None) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri(tmp_path, "http://host:5000") == "http://host:5000"


def test_a_sweep_has_one_driver_at_a_time(tmp_path: Path) -> None:
    with driver.registered(tmp_path):
        assert driver.running(tmp_path) == os.getpid()
        with pytest.raises(SpecError, match="driven by process"), driver.registered(tmp_path):
            pass
    assert driver.running(tmp_path) is None


def test_a_training_is_stopped_by_its_process(tmp_path: Path) -> None:
    """`trimtab stop` knows sweeps alone."""
    folder = SweepDir.training(tmp_path, "quick")
    with folder.driven(), pytest.raises(SpecError) as caught, folder.driven():
        pytest.fail("two drivers")
    pid = os.getpid()
    assert str(caught.value) == (
        f"training 'quick' is driven by process {pid}; stop it first: kill -INT {pid}"
    )


def test_nothing_to_stop(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="not running"):
        driver.stop(tmp_path)


def sleeper(folder: Path) -> subprocess.Popen[bytes]:
    code = (
        "import signal, sys, time; from pathlib import Path; from trimtab.sweepdir import driver\n"
        # A shell's background jobs, CI's among them, are born ignoring SIGINT; a sweep's driver never does.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with driver.registered(Path(sys.argv[1])): time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stderr=subprocess.DEVNULL)
    wait_until(lambda: driver.running(folder) is not None, 20)
    return process


def test_stop_interrupts_the_driver(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    assert driver.stop(tmp_path) == process.pid
    assert process.wait(timeout=patience(20)) == -signal.SIGINT
    assert driver.running(tmp_path) is None


def test_a_process_id_that_was_given_to_another_is_not_signalled(tmp_path: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with driver.registered(tmp_path):
            record = json.loads((tmp_path / driver.FILE).read_text())
        earlier = {"pid": bystander.pid, "started": record["started"] - 60}
        (tmp_path / driver.FILE).write_text(json.dumps({**record, **earlier}))
        with pytest.raises(NotFoundError, match="not running"):
            driver.stop(tmp_path)
        assert bystander.poll() is None
    finally:
        bystander.terminate()
        bystander.wait()


def test_the_same_id_and_time_after_another_boot_is_not_the_driver(tmp_path: Path) -> None:
    with driver.registered(tmp_path):
        assert driver.running(tmp_path) == os.getpid()
        record = json.loads((tmp_path / driver.FILE).read_text())
        (tmp_path / driver.FILE).write_text(json.dumps({**record, "boot": "another"}))
        assert driver.running(tmp_path) is None


def test_a_driver_that_has_not_said_who_it_is_yet_is_not_to_be_stopped(tmp_path: Path) -> None:
    with driver.registered(tmp_path):
        (tmp_path / driver.FILE).unlink()
        refused = pytest.raises(SpecError, match="has just been started by another process; try again")
        with refused, driver.registered(tmp_path):
            pass


def test_a_record_of_an_older_trimtab_is_read_and_names_no_live_driver(tmp_path: Path) -> None:
    """Its start time is text, which nothing can be compared with: this process may be a stranger."""
    old = {"pid": os.getpid(), "started": "5c7a2b1e-boot:4217", "host": socket.gethostname()}
    (tmp_path / driver.FILE).write_text(json.dumps(old))
    assert driver.running(tmp_path) is None
    with pytest.raises(NotFoundError, match="not running"):
        driver.stop(tmp_path)
    with driver.registered(tmp_path):
        assert driver.running(tmp_path) == os.getpid()
    assert not (tmp_path / driver.FILE).exists()


def test_a_driver_of_an_older_trimtab_that_lives_still_holds_the_sweep(tmp_path: Path) -> None:
    """The lock says so, whatever the record looks like."""
    (tmp_path / driver.FILE).write_text(
        json.dumps({"pid": 4711, "started": "5c7a2b1e-boot:4217", "host": socket.gethostname()})
    )
    with (tmp_path / driver.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SpecError, match="driven by process 4711"), driver.registered(tmp_path):
            pass


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "spec.yaml"
    write_whole(file, "old")

    def full(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(text.encode(encoding)[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, "new")
    assert file.read_text() == "old"


def test_a_driver_on_another_machine_is_named(tmp_path: Path) -> None:
    with driver.registered(tmp_path):
        record = json.loads((tmp_path / driver.FILE).read_text())
    (tmp_path / driver.FILE).write_text(json.dumps({**record, "host": "elsewhere"}))
    with pytest.raises(NotFoundError, match="runs on elsewhere"):
        driver.stop(tmp_path)
    with pytest.raises(SpecError, match=r"on elsewhere.*remove"), driver.registered(tmp_path):
        pass


def test_a_driver_that_was_killed_no_longer_counts(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    process.kill()
    process.wait()
    assert (tmp_path / driver.FILE).is_file()
    assert driver.running(tmp_path) is None
    with driver.registered(tmp_path):
        assert driver.running(tmp_path) == os.getpid()
