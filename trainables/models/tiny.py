"""The embedded default model, made on the spot: `python -m trainables.models.tiny --cache .trimtab/models`.

`ensure_tiny` returns `<cache>/tiny-<hash of the recipe>`, a Hugging Face model directory that vLLM and
`AutoModelForCausalLM` load offline. The first call trains it (a minute and a half on one CPU core); one
process builds while others wait for it.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainables.models.recipe import Recipe


def ensure_tiny(cache: Path, recipe: Recipe | None = None) -> Path:
    """The tiny model's directory, trained now if `cache` does not hold it yet.

    The directory appears complete or not at all: it is built under a temporary name and renamed. Raises
    ModelError where the warm-up ends below the recipe's accuracy.
    """
    recipe = recipe or Recipe()
    cache = cache.resolve()
    target = cache / f"tiny-{recipe.digest()}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache / f".{target.name}.lock"):
        if not target.is_dir():
            _build(recipe, target)
    return target


def _build(recipe: Recipe, target: Path) -> None:
    from trainables.models.warmup import write_model  # torch and transformers

    for stale in target.parent.glob(f".{target.name}-*"):  # of a build that was killed: we hold the lock
        shutil.rmtree(stale)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        write_model(recipe, scratch)
        for made in (scratch, *scratch.iterdir()):  # written 0700 and 0600; a cache may be shared
            made.chmod(0o755 if made.is_dir() else 0o644)
        os.rename(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Exclusive among processes. The kernel drops it with its holder, so it is never stale."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the tiny model once and print where it is.")
    parser.add_argument("--cache", type=Path, default=Path(".trimtab/models"))
    print(ensure_tiny(parser.parse_args().cache))


if __name__ == "__main__":
    main()
