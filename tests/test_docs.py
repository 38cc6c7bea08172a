"""Pages fit a screen, their links lead somewhere, and the code that they name exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    path for folder in (".", "docs", "benchmarks", "cluster") for path in sorted((ROOT / folder).glob("*.md"))
]
HISTORY = {ROOT / "CHANGELOG.md", ROOT / "docs" / "lab-log.md"}
"""Pages that name code as it was."""
WIDTH = 100
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
LONE_LINK = re.compile(rf"\s*(?:[-*] |\d+\. )?{LINK.pattern}\S*")
FOLDERS = "platform|trainables|search_spaces|benchmarks|cluster|tests|docs"
PATH = re.compile(rf"(?<![\w./-])(?:{FOLDERS})(?:/[\w.*{{}},-]+)+/?")
MODULE = re.compile(r"(?<![\w./-])(?:trimtab\.\w+|trainables|benchmarks)(?:\.\w+)+")
"""`trimtab.x` alone may be an MLflow tag, such as `trimtab.sweep`."""


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines outside code fences."""
    fenced = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def too_long(page: Path) -> list[str]:
    return [
        f"{page.name}:{number}: {len(line)} characters"
        for number, line in prose(page)
        if len(line) > WIDTH and not line.lstrip().startswith("|") and not LONE_LINK.fullmatch(line)
    ]


def anchors(page: Path) -> set[str]:
    """What `#...` may name on a page, as GitHub makes it from the headings."""
    headings = [line.lstrip("#") for _, line in prose(page) if re.match(r"#{1,6} ", line)]
    plain = [re.sub(r"[^\w\- ]", "", LINK.sub("", heading).strip().lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def dead_links(page: Path) -> list[str]:
    dead = []
    for number, line in prose(page):
        for target in LINK.findall(line):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                dead.append(f"{page.name}:{number}: {target}")
    return dead


def code_spans(page: Path) -> list[str]:
    return re.findall(r"`([^`]+)`", "\n".join(line for _, line in prose(page)))


def exists(path: str) -> bool:
    """Whether a path is in the tree; `{a,b}` means each of both."""
    braces = re.search(r"\{([^}]*)\}", path)
    if braces:
        return all(exists(path.replace(braces[0], part, 1)) for part in braces[1].split(","))
    return any(ROOT.glob(path.rstrip("/")))


def is_code(name: str) -> bool:
    """Whether a dotted name is a module, a package, or what a module holds at its top level."""
    for root in (ROOT, ROOT / "platform"):
        inside = root.joinpath(*name.split("."))
        if inside.is_dir() or inside.with_suffix(".py").is_file():
            return True
        module = inside.parent.with_suffix(".py")
        if module.is_file() and inside.name in top_level(module):
            return True
    return False


def top_level(module: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(module.read_text()).body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                found.add(node.name)
            case ast.ImportFrom() | ast.Import():
                found |= {alias.asname or alias.name for alias in node.names}
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def lost_names(page: Path) -> list[str]:
    """Paths and modules that a page names in backticks and that are not in the tree."""
    spans = code_spans(page)
    paths = [path for span in spans for path in PATH.findall(span) if not exists(path)]
    return paths + [name for span in spans for name in MODULE.findall(span) if not is_code(name)]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_lines_fit_a_screen(page: Path) -> None:
    assert too_long(page) == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY], ids=named)
def test_code_that_is_named_exists(page: Path) -> None:
    assert lost_names(page) == []


def test_the_changelog_says_where_each_module_went() -> None:
    """Of the newest version only: older ones name modules as they were then."""
    newest = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1]
    rows = re.findall(r"^\| (.*) \| (.*) \|$", newest, re.MULTILINE)
    assert [name for _, new in rows for name in MODULE.findall(new) if not is_code(name)] == []
    moves = re.findall(r"^\| `((?:trimtab|trainables)\.[\w.]+)` \| `([\w.]+)` \|$", newest, re.MULTILINE)
    assert [old for old, new in moves if is_code(old) and not new.startswith(f"{old}.")] == []


def test_what_is_wrong_with_a_page_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        f"# One `page`, two\n{'long ' * 21}\n\n| {'cell ' * 30}|\n```\n{'code ' * 30}\n```\n"
        f"- [{'link ' * 30}](page.md#one-page-two)\n[gone](gone.md) [here](#no-such) [out](https://example.com)\n"
        "`trainables/gone.py` `trainables/{config,gone}.py` `trimtab.sweepdir.gone` `trimtab.sweep_id`\n"
        "`trainables.config` `trimtab.errors.SpecError` `benchmarks/*.yaml` `pytest tests/platform`\n"
    )
    assert too_long(page) == ["page.md:2: 105 characters"]
    assert dead_links(page) == ["page.md:9: gone.md", "page.md:9: #no-such"]
    assert lost_names(page) == [
        "trainables/gone.py",
        "trainables/{config,gone}.py",
        "trimtab.sweepdir.gone",
    ]


def test_the_readme_lists_every_page() -> None:
    listed = {
        (ROOT / target.partition("#")[0]).resolve()
        for target in LINK.findall((ROOT / "README.md").read_text())
    }
    assert [named(page) for page in PAGES if page.parent == ROOT / "docs" and page not in listed] == []
