"""Check that training is bit-equal in two states of the code. `make bench BENCH=golden ARGS="record FILE"`

A change that moves code must not change a number. `record` runs a small sweep (three strategies, two seeds,
six steps) through the command line, and writes its results: all metrics except times, the checksum that each
lease proved, and a digest of each run's final weights. `compare` says where two recordings differ, and exits
with 1 if they do.
Equality holds on one machine, so record both states there:

    git worktree add /tmp/before COMMIT        # then, in each of the two checkouts:
    make bench BENCH=golden ARGS="record /tmp/before.json"
    make bench BENCH=golden ARGS="compare /tmp/before.json /tmp/after.json"
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

SPEC: dict[str, Any] = {
    "name": "golden",
    "trial": {
        "steps": 6,
        "rollouts_per_step": 32,
        "task": {"train_prompts": 64, "validation_prompts": 32, "test_prompts": 32},
        "learner": {"lr": 5e-5},
        "evaluation": {"every": 2, "samples": 1},
    },
    "reference": {"strategy": {"preset": "dapo", "group_size": 4}},
    "candidates": [
        {"strategy": {"preset": "v05", "group_size": 4}},
        {"strategy": {"preset": "poise", "group_size": 4, "warmup_updates": 2}},
    ],
    "seeds": [0, 1],
    "slots": {"count": 1},
    "search": {"trials": 2},
}
COMPARED = ("lease", "step", "evaluation")


def sweep(home: Path) -> None:
    """Run the sweep in an empty home and show its output."""
    spec = home / "golden.yaml"
    spec.write_text(yaml.safe_dump({**SPEC, "home": str(home)}))
    subprocess.run([sys.executable, "-m", "trimtab", "sweep", str(spec)], check=True)


def timeless(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event without times."""
    metrics = event.get("metrics", {})
    kept = {k: v for k, v in metrics.items() if not k.startswith("seconds/") and not k.endswith("_s")}
    return {**{k: v for k, v in event.items() if k not in ("time", "seconds")}, "metrics": kept}


def recording(home: Path) -> dict[str, Any]:
    """Return the sweep's results.

    `TRIAL` -> its events in order. `TRIAL/SEED` -> digest of the final weights, or the status of a run that
    did not finish.
    """
    folder = home / "sweeps" / "golden"
    found: dict[str, Any] = {}
    for file in sorted((folder / "records").glob("trial-*.jsonl")):
        events = [json.loads(line) for line in file.read_text().splitlines()]
        found[file.stem] = [timeless(event) for event in events if event["event"] in COMPARED]
        for event in events:
            if event["event"] == "run_finished" and event["status"] != "finished":
                found[f"{file.stem}/{event['seed']}"] = event["status"]
            elif event["event"] == "run_finished":
                weights = Path(event["checkpoint"]) / "model" / "model.safetensors"
                found[f"{file.stem}/{event['seed']}"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    return found


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Yield one line for each value that differs."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from differences(before.get(key), after.get(key), f"{where}/{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, pair in enumerate(zip(before, after, strict=True)):
            yield from differences(*pair, f"{where}[{index}]")
    elif before != after:
        yield f"{where}: {before!r} before, {after!r} after"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record")
    record.add_argument("file", type=Path)
    compare = commands.add_parser("compare")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.command == "record":
        with tempfile.TemporaryDirectory() as folder:
            sweep(Path(folder))
            given.file.write_text(json.dumps(recording(Path(folder)), indent=1))
        return
    found = list(differences(json.loads(given.before.read_text()), json.loads(given.after.read_text())))
    print("\n".join(found) or "bit-equal")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
