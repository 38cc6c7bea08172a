"""Count which small faults of the scientific core the quick tests catch: `make mutants`.

mutmut (https://mutmut.readthedocs.io) changes one operator, number, name or text of a function at a time
and runs the quick tests that pass through that function. A mutant that no test notices survives.

Each room is mutated in a copy below `build/mutants/`, never in the checkout. There, `platform/trimtab` is
`trimtab`, because mutmut takes a path for a module's name. Rooms with many mutants are sampled with a fixed
seed; the rate then has a 95 % interval (Wilson). Mutants outside functions and of decorated functions are
not made: field defaults, properties, validators.

    make mutants                                        # all rooms
    make mutants ARGS="--room statistics --all"         # one room, every mutant of it
    cd build/mutants/statistics && ../../../.venv/bin/mutmut show NAME   # the change itself
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "mutants"
COPIED = ("trainables", "tests", "docs", "search_spaces", "benchmarks", "CHANGELOG.md", "README.md")
SEED, SAMPLE = 14, 60
CAUGHT = (1, 3, -24, 24, 36, 152, 255)
"""Exit codes: a test failed, pytest broke, or the time ran out (a loop without an end is noticed)."""
# Tests of 5 s and more, which mutmut would start for most mutants of a strategy, and such as read source.
LEFT_OUT = (
    "every_model_learns", "survives_between_choices", "fitted_head_brings", "age_does_not_pass",
    "v0_spends_by_prediction", "at_most_60_lines", "without_what_is_slow", "bias", "error_rates_of_the_test",
)  # fmt: skip


@dataclass(frozen=True)
class Room:
    """Modules that are mutated together, by the tests that they are held to."""

    mutated: tuple[str, ...]
    """Paths, glob patterns, relative to the copy."""
    tests: tuple[str, ...]


def of_strategies(*names: str) -> tuple[str, ...]:
    """Return the paths of test files of the strategies."""
    return tuple(f"tests/strategies/test_{name}.py" for name in names)


ROOMS = {
    "objective": Room(("trimtab/sweepdir/objective.py",), ("tests/platform/test_objective.py",)),
    "statistics": Room(("trimtab/decide/compare/statistics.py",), ("tests/platform/test_statistics.py",)),
    "losses": Room(("trainables/learner/losses.py",), ("tests/trainables/test_losses.py",)),
    "update": Room(("trainables/loop/update.py",), ("tests/trainables/test_update.py",)),
    "run": Room(
        ("trainables/loop/rlvr.py", "trainables/loop/state.py"),
        tuple(f"tests/trainables/test_{name}.py" for name in ("update", "stepping", "stepping_lent")),
    ),
    "fusion": Room(
        ("trainables/strategies/fusion/*.py",),
        of_strategies("fusions", "judged", "dbb", "properties"),
    ),
    "groups": Room(
        tuple(f"trainables/strategies/{name}.py" for name in ("groups", "scale", "normalisers")),
        of_strategies("groups", "dbb"),
    ),
    "budget": Room(
        ("trainables/strategies/budget/*.py",),
        of_strategies("budgets", "budgets_adaptive", "adaptive", "properties"),
    ),
    "priors": Room(
        ("trainables/strategies/priors/*.py", "trainables/strategies/estimators/*.py"),
        of_strategies("priors", "critic", "context", "smoothed", "probe"),
    ),
    "composed": Room(
        tuple(
            f"trainables/strategies/{name}.py"
            for name in ("composed", "diagnostics", "value_estimate", "warmup")
        ),
        of_strategies("composed", "diagnostics", "warmup"),
    ),
}


def prepare(name: str, room: Room) -> Path:
    """Copy what the room's tests read into a fresh folder with mutmut's configuration; return the folder."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part in COPIED:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    shutil.copytree(ROOT / "platform" / "trimtab", folder / "trimtab")
    left_out = " and ".join(f"not {test}" for test in LEFT_OUT)
    settings = {
        "source_paths": ["trainables", "trimtab"],
        "only_mutate": list(room.mutated),
        "also_copy": [part for part in COPIED if part not in ("trainables", "tests")],
        "pytest_add_cli_args": ["-m", "not slow", "-k", left_out, "-p", "no:cacheprovider"],
        "pytest_add_cli_args_test_selection": list(room.tests),
        "track_dependencies": False,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    (folder / "pyproject.toml").write_text(
        "\n".join(["[tool.mutmut]", *lines, "[tool.pytest.ini_options]"])
        + '\npythonpath = ["tests/support", "tests/trainables", "tests/platform"]\n'
        'addopts = "--import-mode=importlib --strict-markers"\nmarkers = ["slow: not run here"]\n'
        'timeout = 300\ntimeout_method = "thread"\n'
    )
    return folder


def mutmut(folder: Path, *arguments: str) -> str:
    """Run mutmut in a room's copy on one process; return what it printed."""
    # MUTMUT: folder of a mutmut that is installed elsewhere.
    # Threads of NumPy or torch do not survive the fork that each mutant is. Nor is the checkout imported.
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **one, "PYTHONPATH": os.environ.get("MUTMUT", "")}
    command = ["nice", sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def exit_codes(folder: Path) -> dict[str, int | None]:
    """Return the exit code of each mutant's tests: 33 where no test passes through it, None if not run."""
    found: dict[str, int | None] = {}
    for meta in sorted((folder / "mutants").rglob("*.meta")):
        found.update(json.loads(meta.read_text())["exit_code_by_key"])
    return found


def changes_words_only(diff: str) -> bool:
    """Tell whether a mutant changes the text of a message or of a key, and nothing else."""
    sides = [
        " ".join(line[1:].strip() for line in diff.splitlines() if line[:1] == sign and line[:3] != sign * 3)
        for sign in "-+"
    ]
    return "XX" in sides[1] or sides[0].lower() == sides[1].lower()


def choose(names: list[str], count: int | None, seed: int) -> list[str]:
    """Draw `count` mutants, or take all of them (None)."""
    if count is None or count >= len(names):
        return names
    return [names[n] for n in sorted(np.random.default_rng(seed).choice(len(names), count, replace=False))]


def wilson(caught: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate (Wilson 1927)."""
    z, rate = 1.96, caught / total
    middle = (rate + z * z / (2 * total)) / (1 + z * z / total)
    half = z * np.sqrt(rate * (1 - rate) / total + z * z / (4 * total**2)) / (1 + z * z / total)
    return middle - half, middle + half


def measure(name: str, count: int | None, seed: int) -> dict[str, object]:
    """Mutate one room; print each survivor and return the numbers of mutants, and the survivors.

    Raises:
        SystemExit: mutmut made no mutants, or its tests fail without any.
    """
    room = ROOMS[name]
    folder = prepare(name, room)
    # A name that no mutant has: mutmut makes all mutants, then says so. Their names are known afterwards.
    first = mutmut(folder, "run", "--max-children", "1", "no mutant")
    names = sorted(exit_codes(folder))
    if not names:
        raise SystemExit(f"{name}: mutmut made no mutants:\n{first[-3000:]}")
    chosen = choose(names, count, seed)
    last = mutmut(folder, "run", "--max-children", "1", *chosen)
    codes = {n: exit_codes(folder)[n] for n in chosen}
    if None in codes.values():
        raise SystemExit(f"{name}: mutmut ended before its last mutant:\n{last[-3000:]}")
    survivors = {n: mutmut(folder, "show", n) for n, code in codes.items() if code not in CAUGHT}
    for mutant, diff in survivors.items():
        print(f"\n{mutant}{' (words)' if changes_words_only(diff) else ''}\n{diff}", flush=True)
    words = sum(map(changes_words_only, survivors.values()))
    caught = len(chosen) - len(survivors)
    low, high = wilson(caught, len(chosen))
    return {
        "room": name, "made": len(names), "run": len(chosen), "caught": caught, "rate": caught / len(chosen),
        "low": low, "high": high, "words": words, "untested": sum(code == 33 for code in codes.values()),
    }  # fmt: skip


def main() -> None:
    """Measure the rooms and print the table of docs/testing.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--room", choices=ROOMS, action="append", help="may be repeated; all without it")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="mutants per room")
    # Whoever writes tests for a sample's survivors needs another one to see how good the tests are.
    parser.add_argument("--seed", type=int, default=SEED, help="of the sample")
    parser.add_argument("--all", action="store_true", help="every mutant")
    given = parser.parse_args()
    rows = [measure(name, None if given.all else given.sample, given.seed) for name in given.room or ROOMS]
    print(
        "\n| room | mutants | run | caught | rate, 95 % interval | survivors: words only | without a test |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        rate = "{rate:.1%} ({low:.1%} to {high:.1%})".format(**row)
        print("| {room} | {made} | {run} | {caught} | ".format(**row) + rate, end="")
        print(" | {words} | {untested} |".format(**row))


if __name__ == "__main__":
    main()
