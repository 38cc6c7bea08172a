"""The architecture as tests: where packages lie and who may import whom (docs/architecture.md)."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from speed import patience

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "vllm", "deepspeed", "transformers", "trl"}
ROOMS = (
    "trainables",
    "trainables.errors",
    "trainables.config",
    "trainables.value_models",
    "trainables.strategies",
    "trainables.tasks",
    "trainables.models",
    "trainables.trial",
    "trainables.verifier",
    "trainables.weight_sync",
    "trainables.learner",
    "trainables.rollouts",
    "trainables.loop",
    "trainables.worker",
    "trimtab._version",
    "trimtab.errors",
    "trimtab.security",
    "trimtab.gpus",
    "trimtab.sweepspec",
    "trimtab.sweepdir",
    "trimtab.tracking",
    "trimtab.planning",
    "trimtab.watch",
    "trimtab.slots",
    "trimtab.search",
    "trimtab.remote",
    "trimtab.session",
    "trimtab.decide",
    "trimtab.api",
    "trimtab",
    "trimtab.cli",
    "trimtab.__main__",
)
"""From the ground floor up: a room imports only what stands before it."""
PACKAGES = {
    ".".join(path.parent.relative_to(root).parts)
    for root in (ROOT, ROOT / "platform")
    for path in root.glob("t*/**/__init__.py")
}
PRESETS = {"grpo", "dapo", "dr_grpo", "rloo", "ppo", "v0", "v05", "v05_loo", "poise", "spo", "jspo", "remax"}


def sources(*roots: str) -> list[Path]:
    found = [path for root in roots for path in sorted(ROOT.glob(root))]
    assert found, f"no source matches {roots}: the test would prove nothing"
    return found


def for_types_only(tree: ast.Module) -> set[ast.AST]:
    """What stands under `if TYPE_CHECKING:`."""
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return {node for block in blocks for node in ast.walk(block)}


def imported(path: Path, types: bool = True) -> Iterator[str]:
    """Full names of all modules a file imports, at any depth of nesting and in any branch.

    `types`: also those that only a type checker imports.
    """
    tree = ast.parse(path.read_text())
    left_out = set() if types else for_types_only(tree)
    for node in ast.walk(tree):
        if node in left_out:
            continue
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


def room_of(module: str) -> str:
    """The package of two parts, or the flat module, that a module belongs to."""
    return ".".join(module.split(".")[:2])


def module_names() -> dict[str, Path]:
    return {
        name: path
        for root in ("platform/trimtab", "trainables")
        for name, path in zip(modules(root, mains=True), module_paths(root, mains=True), strict=True)
    }


def room_imports() -> dict[str, set[str]]:
    """Room -> the rooms that its modules import anywhere: in functions and for type checkers too."""
    known = module_names()
    found: dict[str, set[str]] = {room_of(name): set() for name in known}
    for name, path in known.items():
        rooms = {room_of(other) for other in imported(path) if other in known}
        found[room_of(name)] |= rooms - {room_of(name)}
    return found


def upwards(order: tuple[str, ...], imports: dict[str, set[str]]) -> list[str]:
    """Imports that run against an order of rooms in which the ground floor comes first."""
    floor = {room: number for number, room in enumerate(order)}
    return sorted(f"{a} -> {b}" for a, rooms in imports.items() for b in rooms if floor[a] <= floor[b])


def test_imports_between_rooms_run_one_way() -> None:
    """For every pair of rooms: only what stands later in ROOMS may import what stands earlier."""
    imports = room_imports()
    assert set(imports) == set(ROOMS), "a room is new or gone: give it its place in ROOMS"
    assert upwards(ROOMS, imports) == []


def test_an_import_against_the_order_is_found() -> None:
    imports = {"ground": {"attic"}, "attic": {"ground"}}
    assert upwards(("ground", "attic"), imports) == ["ground -> attic"]


def test_trainables_do_not_know_trimtab() -> None:
    assert offenders(sources("trainables/**/*.py"), {"trimtab"}) == []


def test_modules_import_each_other_in_no_circle() -> None:
    known = module_names() | dict(zip(modules("cluster"), module_paths("cluster"), strict=True))
    graph = {
        name: {m for m in imported(path, types=False) if m in known and m not in PACKAGES}
        for name, path in known.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_a_room_holds_at_most_a_dozen_modules() -> None:
    """A room of more is two. `__init__` says what the room is for and counts as none."""
    crowded = {}
    for init in sources("platform/trimtab/*/**/__init__.py", "trainables/*/**/__init__.py"):
        inside = [path for path in init.parent.glob("*.py") if path.name != "__init__.py"]
        if len(inside) > 12:
            crowded[str(init.parent.relative_to(ROOT))] = len(inside)
    assert crowded == {}


def test_a_rooms_init_says_what_it_is_for_and_holds_nothing() -> None:
    for init in sources("platform/trimtab/*/**/__init__.py", "trainables/**/__init__.py"):
        tree = ast.parse(init.read_text())
        assert ast.get_docstring(tree), f"{init.relative_to(ROOT)} does not say what the room is for"
        assert len(tree.body) == 1, f"{init.relative_to(ROOT)} holds code"


def test_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    missing = [room for room in ROOMS if not re.search(rf"\b{room.split('.')[-1]}\b", text)]
    assert missing == []


def test_the_loop_names_no_strategy() -> None:
    loop = sources("trainables/loop/*.py")
    banned = {f"trainables.strategies.{part}" for part in ("presets", "priors", "fusion", "budget")}
    assert offenders(loop, banned) == []
    named = [
        f"{path.relative_to(ROOT)}: {node.value!r}"
        for path in loop
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.lower() in PRESETS
    ]
    assert named == []


def module_paths(root: str, mains: bool = False) -> list[Path]:
    found = sorted((ROOT / root).rglob("*.py"))
    return [path for path in found if mains or path.name != "__main__.py"]


def modules(root: str, mains: bool = False) -> list[str]:
    base = (ROOT / root).parent
    names = (path.relative_to(base).with_suffix("") for path in module_paths(root, mains))
    return [name.as_posix().replace("/", ".").removesuffix(".__init__") for name in names]


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
    assert python(f"import sys, trimtab.cli.main; print(sorted({banned} & set(sys.modules)))") == "[]"


def test_spec_modules_of_trainables_are_light() -> None:
    banned = HEAVY | {"ray", "mlflow", "optuna", "scipy", "pandas", "sklearn", "datasets"}
    code = f"import sys, trainables.trial, trainables.tasks.load; print(sorted({banned} & set(sys.modules)))"
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
