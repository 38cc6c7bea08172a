"""The default model, trained where it is needed: `python -m trainables.models.tiny --cache .trimtab/models`.

`ensure_tiny` returns `<cache>/tiny-<hash of the recipe>`, a Hugging Face model directory that vLLM and
`AutoModelForCausalLM` load offline. The first call trains it, a minute and a half on one CPU core; other
processes wait for it meanwhile.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from trainables.models.recipe import Recipe


def ensure_tiny(cache: Path, recipe: Recipe | None = None) -> Path:
    """Return the tiny model's directory; train the model first if `cache` does not hold it yet.

    The directory appears complete or not at all: it is built under a temporary name and renamed.

    Raises:
        ModelError: The warm-up ends below the recipe's accuracy.
    """
    recipe = recipe or Recipe()
    cache = cache.resolve()
    target = cache / f"tiny-{recipe.digest()}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    # The kernel drops the lock with its holder: it is never stale.
    with FileLock(cache / f".{target.name}.lock"):
        if not target.is_dir():
            _build(recipe, target)
    return target


def _build(recipe: Recipe, target: Path) -> None:
    from trainables.models.warmup import write_model  # torch and transformers

    # Left by a build that was killed: while this process holds the lock, no other build runs.
    for stale in target.parent.glob(f".{target.name}-*"):
        shutil.rmtree(stale)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        write_model(recipe, scratch)
        # Files are written as 0600 in a folder of 0700, but a cache may be shared.
        for made in (scratch, *scratch.iterdir()):
            made.chmod(0o755 if made.is_dir() else 0o644)
        os.rename(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def main() -> None:
    """Make the tiny model and print its directory."""
    parser = argparse.ArgumentParser(description="Make the tiny model once and print where it is.")
    parser.add_argument("--cache", type=Path, default=Path(".trimtab/models"))
    print(ensure_tiny(parser.parse_args().cache))


if __name__ == "__main__":
    main()
