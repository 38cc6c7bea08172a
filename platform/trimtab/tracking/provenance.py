"""Where a run came from: the environment, and the git state of the user's project and of trimtab."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

MAX_DIFF = 1_000_000
"""Maximum length of the stored diff, in characters."""


def provenance() -> dict[str, str]:
    """Return the artifacts that say what ran: file name -> text."""
    project, own = git_state(Path.cwd()), git_state(Path(__file__).parent)
    files = {
        "environment.json": json.dumps(environment(), indent=2),
        "git.json": json.dumps({"project": project, "trimtab": own}, indent=2),
    }
    if project and project["dirty"]:
        files["git.diff"] = _git(Path.cwd(), "diff", "HEAD")[:MAX_DIFF]
    return files


def environment() -> dict[str, Any]:
    """Describe Python, the platform and every installed distribution.

    Environment variables are left out: they may hold secrets.
    """
    found = {
        dist.metadata["Name"]: dist.version for dist in metadata.distributions() if dist.metadata["Name"]
    }
    return {
        "python": sys.version,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": dict(sorted(found.items(), key=lambda item: item[0].lower())),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return commit, branch and whether tracked files changed; None outside a repository or without git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    return {
        "commit": commit,
        "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")),
    }


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
