"""A user's installation, made by the Makefile's own rule: without the extras `dev` and `bench`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from speed import patience

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "support" / "in_user_installation.py"
EXTRAS = {"pytest", "trl", "mypy", "playwright", "psycopg"}
"""Some of what `dev` and `bench` bring."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def environment() -> dict[str, str]:
    """Ours, without what would lend the installation something of this one."""
    own = {"PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}
    return {key: value for key, value in os.environ.items() if key not in own}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The interpreter of a new installation. Its files are links into uv's cache where the disk allows it."""
    venv = tmp_path_factory.mktemp("user") / "venv"
    # Compiling all of it takes longer than this test, which imports a part.
    command = ["make", "install", f"VENV={venv}", "EXTRA=cpu", "COMPILE="]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(600),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    yield venv / "bin" / "python"
    shutil.rmtree(venv)


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), *arguments]
    return subprocess.run(
        command,
        cwd="/",
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(300),
    )


def test_it_holds_nothing_of_the_extras(python: Path) -> None:
    code = "import importlib.metadata as m; print(*(d.metadata['Name'].lower() for d in m.distributions()))"
    names = set(run(python, "-c", code).stdout.split())
    assert {"trimtab", "deepspeed", "accelerate"} <= names
    assert names & EXTRAS == set()


def test_all_modules_all_help_and_a_step_at_every_zero_stage(python: Path, tiny_model: Path) -> None:
    done = run(python, "-P", str(SCRIPT), str(tiny_model), "0123", "--all")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["modules"] > 200
    assert found["commands"] > 15
    assert found["norms"] == pytest.approx(dict.fromkeys("0123", found["norms"]["0"]), rel=1e-3)
    assert found["norms"]["0"] > 0


def test_a_missing_distribution_is_found(python: Path, tiny_model: Path) -> None:
    """Without accelerate, as every user had it when `bench` alone brought it: ZeRO 3 does not start."""
    uv = python.with_name("uv")
    subprocess.run([uv, "pip", "uninstall", "-q", "--python", python, "accelerate"], check=True)
    done = run(python, "-P", str(SCRIPT), str(tiny_model), "3")
    assert done.returncode != 0
    assert "accelerate" in done.stderr
