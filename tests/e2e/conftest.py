"""Real sweeps through the command line, each in a home of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from speed import patience

SPEC: dict[str, Any] = {
    "name": "small",
    "trial": {
        "steps": 6,
        "rollouts_per_step": 32,
        "task": {"train_prompts": 64, "validation_prompts": 32, "test_prompts": 32},
        "learner": {"lr": 5e-5},
        "evaluation": {"every": 2, "samples": 1},
    },
    "reference": {"strategy": {"preset": "dapo", "group_size": 4}},
    "candidates": [
        {
            "strategy": "v05",
            "search": {"alpha": {"float": [0.05, 0.9], "log": True}, "group_size": {"choice": [2, 4]}},
        }
    ],
    "seeds": [0, 1, 2],
    "search": {"trials": 2},
}


@dataclass
class Home:
    """A trimtab home with the tiny model in it, and the command that uses it."""

    path: Path
    environment: dict[str, str]

    @property
    def spec(self) -> dict[str, Any]:
        """The spec that `write` writes, before changes."""
        return SPEC

    def write(self, **changes: object) -> Path:
        file = self.path.parent / "spec.yaml"
        file.write_text(yaml.safe_dump({**SPEC, "home": str(self.path), **changes}))
        return file

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "trimtab", *arguments]

    def run(self, *arguments: str, timeout: float = 540) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.path.parent,
            capture_output=True,
            text=True,
            timeout=patience(timeout),
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """In a session of its own, as a terminal's foreground job would be."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            cwd=self.path.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def processes(self) -> list[str]:
        """Command lines of processes that carry this home's environment: what the sweep started."""
        mark = self.environment["TRIMTAB_TEST_MARK"][:16].encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # ended meanwhile
                continue
        return [line for line in found if line]


@pytest.fixture(scope="module")
def lasting_home(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Home:
    """One for all tests of a module."""
    return make_home(tmp_path_factory.mktemp("lasting"), tiny_model)


@pytest.fixture
def home(tmp_path: Path, tiny_model: Path) -> Home:
    return make_home(tmp_path, tiny_model)


def make_home(tmp_path: Path, tiny_model: Path) -> Home:
    path = tmp_path / "home"
    shutil.copytree(tiny_model, path / "models" / tiny_model.name)
    token = tmp_path / "ray-token"
    token.write_text(secrets.token_hex(32))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_TOKEN_PATH": str(token),
        # Long, as Ray's agents overwrite the beginning of their environment.
        "TRIMTAB_TEST_MARK": secrets.token_hex(8) * 256,
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
        "COLUMNS": "200",
    }
    return Home(path, environment)
