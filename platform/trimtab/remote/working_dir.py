"""The files that travel with a submitted job: few, without what .gitignore names, and without secrets."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from trimtab.errors import SecurityError, SpecError
from trimtab.security import secret_values

MB = 1_000_000
LARGEST = 10
"""How many files a refusal lists."""
NEVER = GitIgnoreSpec.from_lines(
    [".git/", "__pycache__/", ".env", ".env.*", ".netrc", "*.pem", "*.key", "id_rsa", "id_ed25519", ".pgpass"]
)
"""Left out whatever .gitignore says: history, caches, and files that usually hold secrets."""


@dataclass(frozen=True)
class Files:
    """What would be sent."""

    root: Path
    sizes: dict[str, int]
    """Path below `root` -> bytes."""
    left_out: tuple[str, ...]
    """Folders (with a slash) and files that are ignored."""

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())

    def largest(self) -> list[tuple[str, int]]:
        return sorted(self.sizes.items(), key=lambda item: item[1], reverse=True)[:LARGEST]


def collect(root: Path, limit_mb: float) -> Files:
    """Files below `root` that no .gitignore on the way excludes.

    SpecError: more than the limit in all (the largest are listed), or a link that leads out of `root`.
    SecurityError: a file that holds the value of a secret of this environment.
    """
    if not root.is_dir():
        raise SpecError(f"--working-dir: {root} is no folder")
    left_out: list[str] = []
    sizes = {}
    for path in _walk(root, root, [], left_out):
        name = path.relative_to(root).as_posix()
        if not path.resolve().is_relative_to(root.resolve()):
            raise SpecError(
                f"--working-dir: {name} is a link out of {root}; copy the file or ignore the link"
            )
        sizes[name] = path.stat().st_size
    files = Files(root, sizes, tuple(left_out))
    if files.bytes > limit_mb * MB:
        listing = "".join(f"\n  {size / MB:10.2f} MB  {name}" for name, size in files.largest())
        raise SpecError(
            f"--working-dir: {files.bytes / MB:.1f} MB in {len(sizes)} files, more than "
            f"--working-dir-limit-mb {limit_mb:g}; put data on the cluster's storage, or in .gitignore"
            f". The largest:{listing}"
        )
    _check_secrets(files)
    return files


def stage(files: Files, target: Path) -> None:
    """Copy the files to an empty folder: what is sent is what was checked."""
    for name in files.sizes:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(files.root / name, copy)


def _walk(
    root: Path, folder: Path, rules: list[tuple[Path, GitIgnoreSpec]], out: list[str]
) -> Iterator[Path]:
    """Files to send, in order; what is ignored goes to `out`. `rules`: the .gitignore files on the way."""
    ignore = folder / ".gitignore"
    if ignore.is_file():
        lines = ignore.read_text(encoding="utf-8", errors="replace").splitlines()
        rules = [*rules, (folder, GitIgnoreSpec.from_lines(lines))]
    for path in sorted(folder.iterdir()):
        slash = "/" if path.is_dir() and not path.is_symlink() else ""
        if NEVER.match_file(path.name + slash) or _ignored(path, slash, rules):
            out.append(path.relative_to(root).as_posix() + slash)
        elif slash:
            yield from _walk(root, path, rules, out)
        elif path.is_file():
            yield path


def _ignored(path: Path, slash: str, rules: list[tuple[Path, GitIgnoreSpec]]) -> bool:
    """The innermost .gitignore that says anything decides, as in git."""
    for base, rule in reversed(rules):
        decided = rule.check_file(path.relative_to(base).as_posix() + slash).include
        if decided is not None:
            return bool(decided)
    return False


def _check_secrets(files: Files) -> None:
    known = [(name, value.encode()) for name, value in secret_values()]
    for file in files.sizes if known else ():
        content = (files.root / file).read_bytes()
        for name, value in known:
            if value in content:
                raise SecurityError(
                    f"--working-dir: {file} holds the value of ${name}; take it out, and let the "
                    f"cluster set {name}"
                )
