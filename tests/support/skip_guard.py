"""A pytest plugin: under CI a skip that tests/skips.toml does not list fails the run."""

from __future__ import annotations

import fnmatch
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

SKIPS = tomllib.loads((Path(__file__).resolve().parent.parent / "skips.toml").read_text())["skip"]


def unlisted_skip(nodeid: str, reason: str) -> bool:
    """Whether no entry of tests/skips.toml allows this test to be skipped for this reason."""
    return not any(
        fnmatch.fnmatchcase(nodeid, entry["test"]) and entry["reason"] in reason for entry in SKIPS
    )


class SkipGuard:
    """Collects skips that are not listed, and fails the session over them."""

    def __init__(self) -> None:
        self.unlisted: list[tuple[str, str]] = []

    def _look(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            if unlisted_skip(report.nodeid, reason):
                self.unlisted.append((report.nodeid, reason))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._look(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._look(report)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        if self.unlisted and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for nodeid, reason in self.unlisted:
            terminalreporter.write_line(
                f"UNLISTED SKIP {nodeid}: {reason} (list it in tests/skips.toml)", red=True
            )


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI", "").lower() in ("1", "true"):
        config.pluginmanager.register(SkipGuard())
