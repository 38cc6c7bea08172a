"""Print the share of a sweep's wall time spent in RL steps. `make bench BENCH=sweep_share ARGS=NAME`

Reads the journal of a finished sweep, such as `make sweep`'s, and says where its slots' time went: RL steps
(goal: 80 % warm), evaluation on held-out prompts, and the rest (resets, checkpoints, waiting for Tune, a slot
without work). Shares are given from the first lease on, and from the start of the slots' processes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from trimtab.sweepdir import journal
from trimtab.sweepdir.folder import SweepDir


def seconds(folder: Path) -> dict[str, float]:
    """Return the seconds in steps and in evaluations over all runs, and those of the sweep.

    The sweep's seconds are `starting` until the first lease, and `leased` from there to the last event.
    """
    spent = {"steps": 0.0, "evaluation": 0.0}
    times: list[float] = []
    leased: list[float] = []
    for file in sorted((folder / "records").glob("*.jsonl")):
        began: dict[int, float] = {}
        for event in journal.read(folder, file.stem):
            times.append(event["time"])
            if event["event"] == "lease":
                leased.append(event["time"])
            elif event["event"] == "step":
                spent["steps"] += event["metrics"]["seconds/step"]
            elif event["event"] == "stage" and event["stage"] == "evaluating":
                began[event["seed"]] = event["time"]
            elif event["event"] == "evaluation" and event["seed"] in began:
                spent["evaluation"] += event["time"] - began.pop(event["seed"])
    return {**spent, "starting": min(leased) - min(times), "leased": max(times) - min(leased)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--home", type=Path, default=Path(".trimtab"))
    parser.add_argument("--slots", type=int, default=2)
    arguments = parser.parse_args()
    found = seconds(SweepDir.existing(arguments.home, arguments.name).path)
    for since, wall in (
        ("first lease", found["leased"]),
        ("start of the slots", found["leased"] + found["starting"]),
    ):
        steps, evaluation = (found[part] / wall / arguments.slots for part in ("steps", "evaluation"))
        rest = 1 - steps - evaluation
        print(
            f"{wall:.0f} s since the {since}: steps {steps:.0%}, evaluation {evaluation:.0%}, rest {rest:.0%}"
        )


if __name__ == "__main__":
    main()
