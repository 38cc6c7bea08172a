"""The files that are sent with a submitted job: few, none that .gitignore excludes, and no secrets."""

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
"""Number of files that the message about the size limit lists."""
NEVER = GitIgnoreSpec.from_lines(
    [".git/", "__pycache__/", ".env", ".env.*", ".netrc", "*.pem", "*.key", "id_rsa", "id_ed25519", ".pgpass"]
)
"""Always left out, whatever .gitignore says: history, caches, and files that usually hold secrets."""


@dataclass(frozen=True)
class Files:
    """The files that would be sent."""

    root: Path
    sizes: dict[str, int]
    """Path below `root` -> size in bytes."""
    left_out: tuple[str, ...]
    """Ignored files, and ignored folders with a trailing slash."""

    @property
    def bytes(self) -> int:
        """Return the size of all files."""
        return sum(self.sizes.values())

    def largest(self) -> list[tuple[str, int]]:
        """Return path and size of the largest files, the largest first."""
        return sorted(self.sizes.items(), key=lambda item: item[1], reverse=True)[:LARGEST]


def collect(root: Path, limit_mb: float) -> Files:
    """Collect the files below `root` that no .gitignore excludes.

    Raises:
        SpecError: The files are larger than `limit_mb` in total, or a link leads out of `root`.
        SecurityError: A file holds the value of one of this environment's secrets.
    """
    if not root.is_dir():
        raise SpecError(f"--working-dir: {root} is not a folder; name the folder with your code")
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
            f"--working-dir-limit-mb {limit_mb:g}; put data on the cluster's storage, or add it to .gitignore"
            f". The largest:{listing}"
        )
    _check_secrets(files)
    return files


def stage(files: Files, target: Path) -> None:
    """Copy the files to an empty folder, so that exactly the checked files are sent."""
    for name in files.sizes:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(files.root / name, copy)


def _walk(
    root: Path, folder: Path, rules: list[tuple[Path, GitIgnoreSpec]], out: list[str]
) -> Iterator[Path]:
    """Yield the files to send, in order, and add what is ignored to `out`.

    `rules`: the .gitignore files between `root` and `folder`, the outermost first.
    """
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
    """Tell whether a path is ignored. As in git, the innermost .gitignore that matches it decides."""
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
                    f"--working-dir: {file} holds the value of ${name}; remove it from the file, and let the "
                    f"cluster set {name}"
                )
