"""The default model, which is shipped with its recipe and hashes: nothing is trained at first use.

`ensure_tiny` copies it, checked, to where every process of a sweep can read it. `make model` trains it again
(`python -m trainables.models.tiny DIRECTORY`), about 20 minutes on one idle core, with a progress bar.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from trainables.errors import ModelError
from trainables.models.recipe import Recipe

SHIPPED = Path(__file__).resolve().parent / "shipped"
HASHES = "hashes.json"
"""File beside the weights: SHA-256 of every other file of the model."""
WEIGHTS = "model.safetensors"


def ensure_tiny(cache: Path, shipped: Path = SHIPPED) -> Path:
    """Return `<cache>/tiny-<hash>`, a checked copy of the shipped model; copy it there first if need be.

    The directory appears complete or not at all: it is filled under a temporary name and renamed.

    Raises:
        ModelError: a file of the shipped model, or of the copy, is not what its hash says.
    """
    hashes = check_hashes(shipped, "install trimtab again")
    cache = cache.resolve()
    target = cache / f"tiny-{hashes[WEIGHTS][:12]}"
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        # The kernel drops the lock with its holder: it is never stale.
        with FileLock(cache / f".{target.name}.lock"):
            if not target.is_dir():
                _appear(target, lambda scratch: _copy(shipped, scratch))
    check_hashes(target, "delete that folder, and it is copied again")
    return target


def build_tiny(
    target: Path, recipe: Recipe | None = None, on_step: Callable[[int, float], None] | None = None
) -> None:
    """Train the model by its recipe into a directory that does not exist yet, hashes included.

    `on_step` is called after each step with the number of steps done and the loss in nats per token.

    Raises:
        ModelError: the directory exists.
    """
    from trainables.models.warmup import write_model  # torch and transformers

    if target.exists():
        raise ModelError(f"DIRECTORY: {str(target)!r} exists already; choose another, or delete it first")
    target.parent.mkdir(parents=True, exist_ok=True)

    def fill(scratch: Path) -> None:
        write_model(recipe or Recipe(), scratch, on_step)
        (scratch / HASHES).write_text(json.dumps(hashes_of(scratch), indent=1) + "\n")

    _appear(target, fill)


def hashes_of(directory: Path) -> dict[str, str]:
    """Return file name -> SHA-256 of every file of a model but the list of hashes."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != HASHES)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def check_hashes(directory: Path, fix: str) -> dict[str, str]:
    """Return the hashes of a model whose files are what they say.

    Raises:
        ModelError: one is not, or is missing; with `fix`.
    """
    try:
        wanted: dict[str, str] = json.loads((directory / HASHES).read_text())
        found = hashes_of(directory)
    except (OSError, ValueError) as error:
        raise ModelError(f"model: tiny cannot be read in {directory} ({error}); {fix}") from None
    wrong = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if wrong:
        raise ModelError(
            f"model: {', '.join(wrong)} of tiny in {directory} differs from its hash in {HASHES}, so it is "
            f"another model; {fix}"
        )
    return wanted


def _copy(shipped: Path, scratch: Path) -> None:
    for path in shipped.iterdir():
        if path.is_file():
            shutil.copyfile(path, scratch / path.name)


def _appear(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a new directory and give it its name when it is complete."""
    # Left by one that was killed: while this process holds the lock, no other fills one.
    for stale in target.parent.glob(f".{target.name}-*"):
        shutil.rmtree(stale)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        fill(scratch)
        # Files are written as 0600 in a folder of 0700, but a cache may be shared.
        for made in (scratch, *scratch.iterdir()):
            made.chmod(0o755 if made.is_dir() else 0o644)
        os.rename(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def main() -> None:
    """Train the model by its recipe, with a progress bar."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    parser = argparse.ArgumentParser(description="Train the tiny model again by its recipe.")
    parser.add_argument("directory", type=Path, help="made by this; must not exist")
    parser.add_argument("--steps", type=int, default=Recipe().steps, help="fewer for a quick look")
    given = parser.parse_args()
    recipe = Recipe(steps=given.steps)
    columns = (TextColumn("training the tiny model"), BarColumn(), TextColumn("{task.fields[loss]}"))
    with Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("", total=recipe.steps, loss="loading torch")
        build_tiny(
            given.directory,
            recipe,
            lambda step, loss: bar.update(task, completed=step, loss=f"{loss:.3f} nats per token"),
        )
    print(f"{given.directory}\nuse it: trimtab sweep --set trial.model={given.directory}")


if __name__ == "__main__":
    main()
