"""Who runs beside whom: a pytest plugin over `tests/worlds.toml`.

A *world* is a set of processes that tests share, such as a Ray cluster with one slot, and the files of
those tests. A world runs as a whole on one of pytest's workers. Other worlds run beside it. The costliest
begins first. A file that no world names is a world of its own that starts nothing of weight.

With `--time-budget MINUTES` worlds begin in an order that rotates with the commit. A world begins only if it
is expected to end within the budget on a machine as slow as this one; each worker's first world always
begins. What was not started is listed by name as "not run".
"""

from __future__ import annotations

import os
import subprocess
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from speed import VARIABLE, measure
from xdist.scheduler import LoadScopeScheduling

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
LIST = TESTS / "worlds.toml"
COMMIT = "TRIMTAB_TEST_COMMIT"
"""Which commit turns the order within a time budget; the workers read it here."""


@dataclass(frozen=True)
class World:
    """A set of processes, the test files that share it, and what it costs."""

    name: str
    files: tuple[str, ...]
    quick: float = 0.0
    """Minutes of its tests in `make test`, measured with the other worker busy."""
    slow: float = 0.0
    """The same in `make test-slow`."""
    holds: str = ""
    """What is started, for docs/testing.md."""


def read_worlds(file: Path = LIST) -> list[World]:
    """Return the worlds of the list; files relative to `tests/`."""
    listed = tomllib.loads(file.read_text())["world"]
    return [World(**{**entry, "files": tuple(entry["files"])}) for entry in listed]


class Worlds:
    """Looks worlds up by the id of a test."""

    def __init__(self, worlds: Sequence[World]) -> None:
        self._of_file = {f"tests/{file}": world for world in worlds for file in world.files}

    def of(self, nodeid: str) -> World:
        """Return the world of a test; a file that is not listed is its own."""
        file = nodeid.partition("::")[0]
        return self._of_file.get(file) or World(name=file, files=(file,))


def rotated(worlds: Sequence[World], commit: str) -> list[World]:
    """Begin somewhere else for each commit (hexadecimal): over several commits every world comes first."""
    begin = int(commit[:8], 16) % max(1, len(worlds))
    return [*worlds[begin:], *worlds[:begin]]


def head_commit() -> str:
    """Return the checkout's commit. Raises UsageError where git does not tell."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", "") or error
        raise pytest.UsageError(f"--time-budget: `git rev-parse HEAD` says no commit: {why}") from error
    return done.stdout.strip()


# -- Order: the same in every worker -------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--time-budget",
        type=float,
        metavar="MINUTES",
        help="begin no world that is expected to end later; what was not run is listed (with -n and -m slow)",
    )


def in_order(items: Sequence[pytest.Item], commit: str | None) -> list[pytest.Item]:
    """Sort tests world by world, the costliest first or, where a commit is given, rotated by it."""
    known = Worlds(read_worlds())
    of_world: dict[World, list[pytest.Item]] = defaultdict(list)
    for item in items:
        of_world[known.of(item.nodeid)].append(item)

    def weight(world: World) -> float:
        kinds = {item.get_closest_marker("slow") is not None for item in of_world[world]}
        return sum(world.slow if slow else world.quick for slow in kinds)

    worlds = sorted(of_world, key=weight, reverse=True)
    if commit is not None:
        worlds = rotated(worlds, commit)
    return [item for world in worlds for item in of_world[world]]


def pytest_configure(config: pytest.Config) -> None:
    measure()
    if hasattr(config, "workerinput"):
        return
    if config.getoption("time_budget") is not None:
        if not config.getoption("numprocesses") or config.getoption("markexpr") != "slow":
            raise pytest.UsageError("--time-budget holds slow tests back between workers: add -n 2 -m slow")
        if COMMIT not in os.environ:
            os.environ[COMMIT] = head_commit()
    if config.getoption("numprocesses"):
        config.pluginmanager.register(Controller(config), "trimtab-worlds")


@pytest.hookimpl(trylast=True)  # after -m and -k have deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    limited = config.getoption("time_budget") is not None
    items[:] = in_order(items, os.environ[COMMIT] if limited else None)
    # What the command line says holds as it is.
    of_all = None if config.getoption("timeout") is not None else config.getini("timeout")
    for item in items:
        mark = item.get_closest_marker("timeout")
        seconds = mark.args[0] if mark else of_all
        if seconds:
            item.add_marker(pytest.mark.timeout(float(seconds) * measure()), append=False)


def pytest_report_header(config: pytest.Config) -> list[str]:
    said = [f"slowness: {os.environ[VARIABLE]} (time limits are multiplied by it)"]
    if config.getoption("time_budget") is not None:
        said.append(f"order of worlds: by commit {os.environ[COMMIT][:8]}")
    return said


# -- Distribution: in the process that hands out worlds ------------------------------------------------------


@dataclass
class Budget:
    """Time by the clock."""

    seconds: float | None
    """None: as much as it takes."""
    slowness: float
    started: float

    def holds(self, minutes: float) -> bool:
        """Tell whether what takes so many minutes on the reference machine still ends in time."""
        if self.seconds is None:
            return True
        return time.monotonic() - self.started + 60 * minutes * self.slowness <= self.seconds


class WorldScheduling(LoadScopeScheduling):
    """Hands out whole worlds, in the order in which their tests were collected.

    xdist's own `scope` is the name of a world here.
    """

    def __init__(self, config: pytest.Config, log: Any, budget: Budget, minutes: str) -> None:
        """`minutes`: which cost of a world counts, `quick` or `slow`."""
        config.option.loadscopereorder = False
        super().__init__(config, log)
        self._known = Worlds(read_worlds())
        self._worlds: dict[str, World] = {}
        self._budget = budget
        self._minutes = minutes
        self._refused: list[str] = []

    @property
    def not_run(self) -> list[str]:
        """Ids of tests that were not started: for want of time, or since the session was ended."""
        waiting = [self.workqueue, *self.assigned_work.values()]
        units = [unit for units in waiting for unit in units.values()]
        return self._refused + [test for unit in units for test, done in unit.items() if not done]

    def remove_node(self, node: Any) -> str | None:
        """Take back what a worker that died has left. Its test has failed: there is no second try."""
        workload = self.assigned_work.pop(node)
        left = [(unit, test) for unit in workload.values() for test, done in unit.items() if not done]
        if not left:
            return None
        unit, crashed = left[0]
        unit[crashed] = True
        self.workqueue.update({name: unit for name, unit in workload.items() if not all(unit.values())})
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed

    def _split_scope(self, nodeid: str) -> str:
        world = self._known.of(nodeid)
        self._worlds[world.name] = world
        return world.name

    def _cost(self, name: str) -> float:
        minutes: float = getattr(self._worlds[name], self._minutes)
        return minutes

    def _left_on(self, node: Any) -> float:
        """Minutes until a worker has done what it was given."""
        units = self.assigned_work[node].items()
        return sum(self._cost(name) * list(unit.values()).count(False) / len(unit) for name, unit in units)

    def _assign_work_unit(self, node: Any) -> None:
        while self.workqueue:
            name, unit = next(iter(self.workqueue.items()))
            if not self.assigned_work[node] or self._budget.holds(self._left_on(node) + self._cost(name)):
                super()._assign_work_unit(node)
                return
            del self.workqueue[name]
            self._refused += [test for test, done in unit.items() if not done]
        node.shutdown()

    def _reschedule(self, node: Any) -> None:
        # xdist hands the next scope over while two tests are left. With tests of minutes that is early; one
        # is what it takes, since a worker begins a test only when it knows the one after it. A replacement
        # that still collects is asked later.
        while (
            node in self.registered_collections
            and not node.shutting_down
            and self._pending_of(self.assigned_work[node]) <= 1
        ):
            super()._reschedule(node)


class Controller:
    """Hands worlds out, and says at the end what they cost and which were left out."""

    def __init__(self, config: pytest.Config) -> None:
        minutes = config.getoption("time_budget")
        self._budget = Budget(None if minutes is None else 60 * minutes, measure(), time.monotonic())
        self._minutes = "slow" if config.getoption("markexpr") == "slow" else "quick"
        self._scheduler: WorldScheduling | None = None
        self._known = Worlds(read_worlds())
        self._seconds: dict[str, float] = defaultdict(float)

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> WorldScheduling:
        self._scheduler = WorldScheduling(config, log, self._budget, self._minutes)
        return self._scheduler

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[self._known.of(report.nodeid).name] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("worlds: minutes measured, minutes expected here")
        for line in self._costs():
            terminalreporter.write_line(line)
        left = self._scheduler.not_run if self._scheduler else []
        if left:
            terminalreporter.section(f"not run: {len(left)} tests")
            for nodeid in left:
                terminalreporter.write_line(f"NOT RUN {nodeid}")

    def _costs(self) -> Iterator[str]:
        stated = {world.name: getattr(world, self._minutes) for world in read_worlds()}
        for name, seconds in sorted(self._seconds.items(), key=lambda pair: -pair[1]):
            expected = stated.get(name, 0.0) * self._budget.slowness
            if seconds >= 5 or expected:
                yield f"{seconds / 60:6.2f} {expected:6.2f}  {name}"
