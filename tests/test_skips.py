"""The skip guard of tests/support, run for real on a small suite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SUITE = """
import pytest

def test_listed():
    pytest.skip("no unicorn in this machine")

def test_unlisted():
    {unlisted}

@pytest.mark.xfail(reason="known")
def test_expected_to_fail():
    raise ValueError
"""

LIST = """
[[skip]]
test = "*::test_listed"
reason = "no unicorn"
why = "they are rare"
"""


@pytest.mark.parametrize(
    ("ci", "unlisted", "code"),
    [("true", "pytest.skip('tired')", 1), ("", "pytest.skip('tired')", 0), ("true", "pass", 0)],
)
def test_an_unlisted_skip_fails_under_ci(tmp_path: Path, ci: str, unlisted: str, code: int) -> None:
    tests = tmp_path / "tests"
    (tests / "support").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "support" / "skip_guard.py", tests / "support")
    (tests / "skips.toml").write_text(LIST)
    (tests / "test_suite.py").write_text(SUITE.format(unlisted=unlisted))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "skip_guard", str(tests)],
        env=os.environ | {"CI": ci, "PYTHONPATH": str(tests / "support")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    assert ("UNLISTED SKIP" in done.stdout) == (code == 1)
    assert ("test_unlisted: Skipped: tired" in done.stdout) == (code == 1)


def test_every_entry_says_why() -> None:
    import tomllib

    for entry in tomllib.loads((ROOT / "tests" / "skips.toml").read_text())["skip"]:
        assert set(entry) == {"test", "reason", "why"}
