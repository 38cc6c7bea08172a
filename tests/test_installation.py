"""What a user's installation holds: neither the `dev` nor the `bench` extra, which the tests' own has."""

from __future__ import annotations

import ast
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
OURS = {"trimtab", "trainables"}
OPTIONAL = {"tabpfn"}
"""Asked for by name, and refused with the fix where it is missing."""
UNSEEN = {"accelerate": "transformers imports it for HfDeepSpeedConfig: `learner.zero_stage: 3`"}
"""Distributions that no import of ours shows, and what needs them."""


def closure(extras: set[str]) -> set[str]:
    """Names of all distributions that an installation of trimtab with these extras brings."""
    found: dict[str, set[str]] = {}
    waiting = [("trimtab", extras)]
    while waiting:
        name, wanted = waiting.pop()
        if name in found and wanted <= found[name]:
            continue
        found[name] = found.get(name, set()) | wanted
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (found[name] or {""})):
                waiting.append((canonicalize_name(requirement.name), set(requirement.extras)))
    return set(found)


def imported() -> set[str]:
    """Top-level names of all modules that trimtab and trainables import, at any depth."""
    files = [*ROOT.glob("platform/trimtab/**/*.py"), *ROOT.glob("trainables/**/*.py")]
    found = set()
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - OURS - OPTIONAL


def test_every_import_is_in_a_users_installation() -> None:
    brought = closure({"cpu"})
    of_module = metadata.packages_distributions()
    missing = {
        module: of_module.get(module, [])
        for module in imported()
        if not brought & {canonicalize_name(name) for name in of_module.get(module, [])}
    }
    assert missing == {}


@pytest.mark.parametrize("name", UNSEEN)
def test_what_no_import_shows_is_in_a_users_installation(name: str) -> None:
    declared = [Requirement(line) for line in metadata.requires("trimtab") or []]
    assert name in {canonicalize_name(r.name) for r in declared if r.marker is None}, UNSEEN[name]


def test_what_only_the_bench_extra_brings_is_told_apart() -> None:
    assert "trl" in closure({"cpu", "bench"}) - closure({"cpu"})
