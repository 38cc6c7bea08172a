"""Shared fixtures. What else happens to a session is in `tests/support`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from speed import patience

ROOT = Path(__file__).resolve().parent.parent
pytest_plugins = ("skip_guard", "worlds")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The same examples every time, and no clock: a busy machine is not a wrong answer.
settings.register_profile("trimtab", deadline=None, derandomize=True)
settings.load_profile("trimtab")


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """Directory of the tiny model, copied once to the checkout's cache."""
    from trainables.models.tiny import ensure_tiny

    return ensure_tiny(ROOT / ".trimtab" / "models")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Directory of data sets that lie beside the checkout (or under TRIMTAB_SHARED) and are never copied."""
    candidates = [Path(os.environ["TRIMTAB_SHARED"])] if "TRIMTAB_SHARED" in os.environ else []
    candidates.append(ROOT.parent / "shared")
    for candidate in candidates:
        if (candidate / "data").is_dir():
            return candidate / "data"
    pytest.skip("no shared data beside the checkout; set TRIMTAB_SHARED to the directory that holds data/")


@pytest.fixture
def page() -> Iterator[Any]:
    """An empty page of Debian's Chromium (a `playwright.sync_api.Page`)."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        # Its sandbox wants user namespaces, which containers mostly lack; only our own pages are opened.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(1000 * patience(120))
        yield page
        browser.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB, to be really filled."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
