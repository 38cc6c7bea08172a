"""Who runs beside whom: a pytest plugin over `tests/worlds.toml`.

A *world* is a set of processes that tests share, such as a Ray cluster with one slot, and the files of
those tests. A world runs as a whole on one of pytest's workers, so nothing is started twice. Other worlds run
beside it. The costliest begins first. A file that no world names is a world of its own that starts nothing of
weight.

With `--time-budget MINUTES` worlds begin in an order that rotates with the commit. A world begins only if it
is expected to end within the budget on a machine as slow as this one. What was not started is listed by name
as "not run".
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

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
LIST = TESTS / "worlds.toml"


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
    if not file.exists():
        return []
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
    """Begin somewhere else for each commit (hexadecimal): over several commits every world runs."""
    begin = int(commit[:8], 16) % max(1, len(worlds))
    return [*worlds[begin:], *worlds[:begin]]


def head_commit() -> str:
    """Return the checkout's commit, or zeros where there is none."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "0"


# -- Order: the same in every worker -------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--time-budget",
        type=float,
        metavar="MINUTES",
        help="begin no world that would end later than this; what was not run is listed (needs -n)",
    )


def cost(world: World, *, slow: bool) -> float:
    """Minutes on the reference machine."""
    return world.slow if slow else world.quick


def in_order(items: Sequence[pytest.Item], budget: float | None, commit: str) -> list[pytest.Item]:
    """Sort tests world by world, the costliest first or, within a budget, rotated by commit."""
    known = Worlds(read_worlds())
    of_world: dict[World, list[pytest.Item]] = defaultdict(list)
    for item in items:
        of_world[known.of(item.nodeid)].append(item)

    def weight(world: World) -> float:
        kinds = {item.get_closest_marker("slow") is not None for item in of_world[world]}
        return sum(cost(world, slow=slow) for slow in kinds)

    worlds = sorted(of_world, key=weight, reverse=True)
    if budget is not None:
        worlds = rotated(worlds, commit)
    return [item for world in worlds for item in of_world[world]]


def pytest_configure(config: pytest.Config) -> None:
    measure()
    if hasattr(config, "workerinput"):
        return
    os.environ["TRIMTAB_TEST_COMMIT"] = head_commit()
    if config.getoption("numprocesses", None):
        config.pluginmanager.register(Controller(config), "trimtab-worlds")
    elif config.getoption("time_budget") is not None:
        raise pytest.UsageError("--time-budget needs workers: add -n 2")


@pytest.hookimpl(trylast=True)  # after -m and -k have deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items[:] = in_order(items, config.getoption("time_budget"), os.environ["TRIMTAB_TEST_COMMIT"])
    default = float(config.getini("timeout") or 0)
    for item in items:
        mark = item.get_closest_marker("timeout")
        seconds = float(mark.args[0]) if mark and mark.args else default
        item.add_marker(pytest.mark.timeout(seconds * measure()), append=False)


def pytest_report_header() -> str:
    return f"slowness: {os.environ[VARIABLE]} (time limits are multiplied by it)"


# -- Distribution: in the process that hands out worlds ------------------------------------------------------


@dataclass
class Budget:
    """Time by the clock."""

    seconds: float | None
    slowness: float
    started: float

    def holds(self, minutes: float) -> bool:
        """Whether something that takes so many minutes on the reference machine still ends in time."""
        if self.seconds is None:
            return True
        return time.monotonic() - self.started + 60 * minutes * self.slowness <= self.seconds


def make_scheduler(config: pytest.Config, log: Any, budget: Budget, slow: bool) -> Any:
    """Return xdist's scheduler of whole scopes, told what a scope is and when to stop."""
    from xdist.scheduler import LoadScopeScheduling

    known = Worlds(read_worlds())

    class WorldScheduling(LoadScopeScheduling):
        """Hands out whole worlds, in the order in which their tests were collected."""

        def __init__(self) -> None:
            config.option.loadscopereorder = False
            super().__init__(config, log)
            self.not_run: list[str] = []
            self._worlds: dict[str, World] = {}

        def _split_scope(self, nodeid: str) -> str:
            world = known.of(nodeid)
            self._worlds[world.name] = world
            return world.name

        def _assign_work_unit(self, node: Any) -> None:
            while self.workqueue:
                if budget.holds(cost(self._worlds[next(iter(self.workqueue))], slow=slow)):
                    super()._assign_work_unit(node)
                    return
                _, tests = self.workqueue.popitem(last=False)
                self.not_run += tests
            node.shutdown()

        def _reschedule(self, node: Any) -> None:
            # xdist hands the next scope over while two tests are left. With tests of minutes that is early;
            # one is what it takes, since a worker begins a test only when it knows the one after it.
            if node.shutting_down or self._pending_of(self.assigned_work[node]) <= 1:
                super()._reschedule(node)

        def remove_node(self, node: Any) -> str | None:
            # xdist runs the rest of a scope on another worker after a crash, the test that crashed included.
            # That test has failed: there is no second try.
            workload = self.assigned_work.pop(node)
            left = [(unit, test) for unit in workload.values() for test, done in unit.items() if not done]
            if not left:
                return None
            (unit, crashed), *others = left
            unit[crashed] = True
            if others:
                self.workqueue.update(workload)
            for other in self.assigned_work:
                self._reschedule(other)
            return crashed

    return WorldScheduling()


class Controller:
    """Hands worlds out, and says at the end what they cost and which were left out."""

    def __init__(self, config: pytest.Config) -> None:
        minutes = config.getoption("time_budget")
        self._budget = Budget(None if minutes is None else 60 * minutes, measure(), time.monotonic())
        self._slow = config.getoption("markexpr") == "slow"
        self._scheduler: Any = None
        self._known = Worlds(read_worlds())
        self._seconds: dict[str, float] = defaultdict(float)

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        self._scheduler = make_scheduler(config, log, self._budget, self._slow)
        return self._scheduler

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[self._known.of(report.nodeid).name] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("worlds: minutes measured, minutes expected here")
        for line in self._costs():
            terminalreporter.write_line(line)
        if left := self._left():
            terminalreporter.section(f"not run: {len(left)} tests, for want of time")
            for nodeid in left:
                terminalreporter.write_line(f"NOT RUN {nodeid}")

    def _left(self) -> list[str]:
        return list(self._scheduler.not_run) if self._scheduler else []

    def _costs(self) -> Iterator[str]:
        stated = {world.name: cost(world, slow=self._slow) for world in read_worlds()}
        for name, seconds in sorted(self._seconds.items(), key=lambda pair: -pair[1]):
            expected = stated.get(name, 0.0) * self._budget.slowness
            if seconds >= 5 or expected:
                yield f"{seconds / 60:6.2f} {expected:6.2f}  {name}"
