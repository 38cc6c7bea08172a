"""How the tests are run (tests/support/worlds.py), tried for real on small suites."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from speed import VARIABLE, patience
from worlds import COMMIT, World, Worlds, read_worlds, rotated

ROOT = Path(__file__).resolve().parent.parent
WORLDS = """
[[world]]
name = "first"
slow = 30.0
files = ["test_first.py"]

[[world]]
name = "second"
slow = 29.0
files = ["test_second.py"]

[[world]]
name = "dear"
slow = 20.0
files = ["test_dear.py"]

[[world]]
name = "cheap"
slow = 0.5
files = ["test_cheap.py", "test_cheap_too.py"]
"""
SLOW = """
import os
import pytest

@pytest.mark.slow
@pytest.mark.parametrize("n", range(4))
def test_it(n):
    with open(os.environ["WHO"], "a") as file:
        print(__name__, os.getpid(), file=file)
"""
LIMITS = """
import pytest
from speed import patience, wait_until

@pytest.mark.timeout(7)
def test_own_limit(request):
    assert request.node.get_closest_marker("timeout").args == (21,)

def test_limit_of_all(request):
    assert request.node.get_closest_marker("timeout").args == (300,)
    assert patience(2) == 6

def test_what_never_comes_true_is_said():
    with pytest.raises(AssertionError, match="no such thing"):
        wait_until(lambda: False, 0.01, "no such thing")
    wait_until(lambda: True, 0)
"""


CRASH = """
import os

def test_before():
    pass

def test_that_ends_its_process():
    with open(os.environ["WHO"], "a") as file:
        print("begun", file=file)
    os._exit(3)

def test_after():
    pass
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """An empty suite with the plugin and a list of worlds."""
    support = tmp_path / "tests" / "support"
    support.mkdir(parents=True)
    for name in ("worlds.py", "speed.py"):
        shutil.copy(ROOT / "tests" / "support" / name, support)
    (tmp_path / "tests" / "worlds.toml").write_text(WORLDS)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nmarkers = slow\ntimeout = 100\naddopts = --import-mode=importlib\n"
    )
    return tmp_path


def run(
    suite: Path, *arguments: str, slowness: str = "1.00", commit: str = "0" * 40
) -> subprocess.CompletedProcess[str]:
    environment = {
        VARIABLE: slowness,
        COMMIT: commit,
        "PYTHONPATH": str(suite / "tests" / "support"),
        "WHO": str(suite / "who"),
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "worlds", *arguments, "tests"],
        env=os.environ | environment,
        cwd=suite,
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(120),
    )


NAMES = ("first", "second", "dear", "cheap", "cheap_too")


@pytest.fixture
def filled(suite: Path) -> Path:
    """Five files of four slow tests: four worlds, the cheap one of two files."""
    for name in NAMES:
        (suite / "tests" / f"test_{name}.py").write_text(SLOW)
    return suite


def not_run(done: subprocess.CompletedProcess[str]) -> list[str]:
    lines = done.stdout.splitlines()
    return sorted(line.removeprefix("NOT RUN ") for line in lines if line.startswith("NOT RUN "))


def ids_of(*names: str) -> list[str]:
    return sorted(f"tests/test_{name}.py::test_it[{n}]" for name in names for n in range(4))


def test_what_would_end_too_late_is_listed_as_not_run(filled: Path) -> None:
    # A quarter of a world of half an hour is left when the next one is handed out.
    done = run(filled, "-n", "2", "-m", "slow", "--time-budget", "15")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not run: 4 tests" in done.stdout
    assert not_run(done) == ids_of("dear")
    assert "16 passed" in done.stdout.splitlines()[-1]


def test_a_slow_machine_has_time_for_less_but_each_worker_begins(filled: Path) -> None:
    done = run(filled, "-n", "2", "-m", "slow", "--time-budget", "15", slowness="50")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not_run(done) == ids_of("dear", "cheap", "cheap_too")
    assert "8 passed" in done.stdout.splitlines()[-1]


def test_the_order_turns_with_the_commit(filled: Path) -> None:
    """The third of four worlds comes first, then the fourth; for the others there is no time."""
    turned = f"{2:08x}" + "0" * 32
    done = run(filled, "-n", "2", "-m", "slow", "--time-budget", "15", slowness="50", commit=turned)
    assert not_run(done) == ids_of("first", "second")
    assert "order of worlds: by commit 00000002" in done.stdout


def test_without_a_budget_everything_runs_and_a_world_stays_together(filled: Path) -> None:
    done = run(filled, "-n", "2", "-m", "slow")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not run" not in done.stdout
    assert "20 passed" in done.stdout.splitlines()[-1]
    ran = [line.split() for line in (filled / "who").read_text().splitlines()]
    workers = {name: {pid for other, pid in ran if other == name} for name, _ in ran}
    assert all(len(pids) == 1 for pids in workers.values())
    assert workers["tests.test_cheap"] == workers["tests.test_cheap_too"]
    assert workers["tests.test_first"] != workers["tests.test_second"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_ends_its_process_has_failed_once_and_everything_else_runs(filled: Path, workers: str) -> None:
    """Worlds that were over before are not run again, and nobody waits for them."""
    for name in ("crash", "crash_too"):
        (filled / "tests" / f"test_{name}.py").write_text(CRASH)
    done = run(filled, "-n", workers)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "2 failed, 24 passed" in done.stdout.splitlines()[-1]
    assert not_run(done) == []
    lines = (filled / "who").read_text().splitlines()
    assert lines.count("begun") == 2
    assert len(lines) == 22


@pytest.mark.parametrize("other", [("-m", "slow"), ("-n", "2"), ("-n", "2", "-m", "not slow")])
def test_a_budget_is_for_slow_tests_and_workers(filled: Path, other: tuple[str, ...]) -> None:
    done = run(filled, *other, "--time-budget", "20")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "add -n 2 -m slow" in done.stderr


def test_time_limits_grow_with_slowness(suite: Path) -> None:
    (suite / "tests" / "test_limits.py").write_text(LIMITS)
    done = run(suite, slowness="3.00")
    assert done.returncode == 0, done.stdout


@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_another_commit_begins_elsewhere(count: int, commit: int) -> None:
    worlds = [World(str(n), ()) for n in range(count)]
    order = rotated(worlds, f"{commit:08x}" + "0" * 32)
    assert Counter(order) == Counter(worlds)
    firsts = {rotated(worlds, f"{n:08x}" + "0" * 32)[0] for n in range(count)}
    assert firsts == set(worlds), "every world comes first for some commit"


def test_the_list_names_files_that_exist_and_each_once() -> None:
    files = Counter(file for world in read_worlds() for file in world.files)
    assert [file for file in files if not (ROOT / "tests" / file).is_file()] == []
    assert [file for file, count in files.items() if count > 1] == []
    assert Worlds(read_worlds()).of("tests/test_running.py::x").name == "tests/test_running.py"


def test_the_documentation_shows_what_the_list_says() -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    for world in read_worlds():
        costs = " | ".join(f"{minutes:.1f}" if minutes else "-" for minutes in (world.quick, world.slow))
        assert f"| {world.name} | {world.holds} | {costs} |" in page
