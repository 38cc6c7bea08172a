"""The architecture as tests: where packages lie and who may import whom (docs/architecture.md)."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from speed import patience

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "vllm", "deepspeed", "transformers", "trl"}
PRESETS = {"grpo", "dapo", "dr_grpo", "rloo", "ppo", "v0", "v05", "v05_loo", "poise", "spo", "jspo", "remax"}


def sources(*roots: str) -> list[Path]:
    found = [path for root in roots for path in sorted(ROOT.glob(root))]
    assert found, f"no source matches {roots}: the test would prove nothing"
    return found


def imported(path: Path) -> Iterator[str]:
    """Full names of all modules a file imports, at any depth of nesting and in any branch."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offenders(paths: list[Path], banned: set[str]) -> list[str]:
    """Imports of banned modules or what lies below them."""
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in paths
        for name in imported(path)
        if any(name == module or name.startswith(module + ".") for module in banned)
    ]


def python(code: str) -> str:
    """What a fresh interpreter, started in the repository root, prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(120),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_platform_is_the_standard_librarys() -> None:
    code = "import platform, sysconfig; print(platform.__file__, sysconfig.get_path('stdlib'), sep='\\n')"
    found, library = python(code).splitlines()
    assert Path(found) == Path(library) / "platform.py"


def test_platform_is_no_package() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert not (ROOT / "tests" / "platform" / "__init__.py").exists()


def test_trimtab_imports_nothing_heavy_anywhere() -> None:
    assert offenders(sources("platform/trimtab/**/*.py"), HEAVY) == []


def test_strategies_are_numpy_only() -> None:
    banned = HEAVY | {"ray", "optuna", "mlflow"}
    assert offenders(sources("trainables/strategies/**/*.py"), banned) == []


def test_trainables_know_only_leaves_of_trimtab() -> None:
    """`trimtab` may import `trainables`; the other way only the exceptions, and in the slots' broker and
    client the journal and the objective, which import nothing of ours themselves.
    """
    allowed = {"errors": "", "records": "slots/", "objective": "slots/"}
    others = []
    for found in offenders(sources("trainables/**/*.py"), {"trimtab"}):
        path, name = found.removeprefix("trainables/").split(": ")
        leaf = name.removeprefix("trimtab").removeprefix(".").split(".")[0]
        if leaf and not (leaf in allowed and path.startswith(allowed[leaf])):
            others.append(found)
    assert others == []
    leaves = [ROOT / "platform" / "trimtab" / f"{leaf}.py" for leaf in allowed]
    assert offenders(leaves, {"trainables", "ray", "mlflow", "optuna"}) == []


def test_the_loop_names_no_strategy() -> None:
    loop = [
        path for path in sources("trainables/*.py", "trainables/rlvr/**/*.py") if path.name != "config.py"
    ]
    assert any(path.name.startswith("rlvr") or "rlvr" in path.parts for path in loop)
    banned = {f"trainables.strategies.{part}" for part in ("presets", "priors", "fusion", "budget")}
    assert offenders(loop, banned) == []
    named = [
        f"{path.relative_to(ROOT)}: {node.value!r}"
        for path in loop
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.lower() in PRESETS
    ]
    assert named == []


def modules(root: str) -> list[str]:
    base = ROOT / root
    paths = sorted(base.rglob("*.py"))
    names = (path.relative_to(base.parent).with_suffix("").as_posix().replace("/", ".") for path in paths)
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def test_importing_all_of_trimtab_loads_nothing_heavy() -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {modules('platform/trimtab')}: importlib.import_module(name)\n"
        f"print(sorted({HEAVY} & set(sys.modules)))"
    )
    assert python(code) == "[]"


def test_what_the_command_line_loads_is_light() -> None:
    """Nothing that takes a second to import before a command has been chosen."""
    banned = HEAVY | {"ray", "mlflow", "optuna", "scipy", "pandas", "sklearn", "datasets"}
    assert python(f"import sys, trimtab.cli; print(sorted({banned} & set(sys.modules)))") == "[]"


def test_spec_modules_of_trainables_are_light() -> None:
    banned = HEAVY | {"ray", "mlflow", "optuna", "scipy", "pandas", "sklearn", "datasets"}
    code = f"import sys, trainables.config, trainables.tasks; print(sorted({banned} & set(sys.modules)))"
    assert python(code) == "[]"


def test_help_answers_within_a_second() -> None:
    command = [str(Path(sys.executable).parent / "trimtab"), "--help"]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        times.append(time.perf_counter() - start)
        assert "sweep" in done.stdout
    assert min(times) < patience(1.0)


@pytest.mark.parametrize("path", ["constraints.txt", "pyproject.toml", "Makefile", "README.md"])
def test_no_addresses_or_personal_paths(path: str) -> None:
    """Only public documentation may be linked; an index address or a home directory breaks elsewhere."""
    text = (ROOT / path).read_text()
    assert not re.search(r"--(extra-)?index-url|--find-links +\S|file://|/home/\w|/root\b", text)


def test_constraints_pin_without_local_versions() -> None:
    pins = (ROOT / "constraints.txt").read_text().split()
    assert pins
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9_.\-\[\]]+==[0-9][0-9A-Za-z.]*", pin)] == []


def test_files_are_read_in_one_sitting() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources("platform/trimtab/**/*.py", "trainables/**/*.py")
        if (lines := path.read_text().count("\n")) > 450
    }
    assert long == {}
