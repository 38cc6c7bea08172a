"""Share of a sweep's wall time that goes into RL steps. `make bench BENCH=sweep_share ARGS=NAME`

Reads the journal of a sweep that has run (such as `make sweep`'s) and says where its slots' time went from
the first lease to the last event: RL steps (goal: 80 %), evaluation on held-out prompts, and the rest
(resets, checkpoints, waiting for Tune, a slot without work at the end).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from trimtab import records
from trimtab.home import existing_sweep_dir


def shares(folder: Path, slots: int) -> dict[str, float]:
    """Part -> share of `slots` x the wall time between the first lease and the last event."""
    spent = {"steps": 0.0, "evaluation": 0.0}
    times: list[float] = []
    for file in sorted((folder / "records").glob("*.jsonl")):
        began: dict[int, float] = {}
        for event in records.read(folder, file.stem):
            if event["event"] == "stage" and event["stage"] == "waiting":
                continue
            times.append(event["time"])
            if event["event"] == "step":
                spent["steps"] += event["metrics"]["seconds/step"]
            elif event["event"] == "stage" and event["stage"] == "evaluating":
                began[event["seed"]] = event["time"]
            elif event["event"] == "evaluation" and event["seed"] in began:
                spent["evaluation"] += event["time"] - began.pop(event["seed"])
    wall = slots * (max(times) - min(times))
    found = {part: seconds / wall for part, seconds in spent.items()}
    return {**found, "rest": 1 - sum(found.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--home", type=Path, default=Path(".trimtab"))
    parser.add_argument("--slots", type=int, default=2)
    arguments = parser.parse_args()
    found = shares(existing_sweep_dir(arguments.home, arguments.name), arguments.slots)
    print(", ".join(f"{part} {share:.0%}" for part, share in found.items()))


if __name__ == "__main__":
    main()
