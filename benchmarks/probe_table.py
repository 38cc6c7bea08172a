"""Read journals of `benchmarks.probe_panel` and print how well each prior predicted the rewards.

    PYTHONPATH=$PWD trimtab sweep benchmarks/probe_panel.yaml
    python -m benchmarks.probe_table .trimtab/sweeps/probe-panel

Each value is the mean over a window of steps, averaged over seeds, with the standard error over seeds.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

METRICS = ("mae", "mse", "pearson")
NAMES = {
    "probe": "probe, from 3 others",
    "probe_one_other": "probe, from 1 other",
    "probe_all_columns": "probe without PCA, penalty 1000",
    "probe_auto": "probe, layer auto",
    "probe_prompt": "probe, prompt states only",
    "critic": "critic, at the prompt",
    "critic_last_token": "critic, last token, from 3 others",
    "tracker": "tracker",
    "strata": "strata",
    "global": "global mean",
    "others_mean": "mean of the 3 others",
    "one_other": "the 1 other",
}


def steps(journal: Path) -> Iterator[dict[str, Any]]:
    for line in journal.read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "step":
            yield event


def table(journal: Path, first: int, last: int) -> dict[str, dict[str, tuple[float, float]]]:
    """{prior: {metric: (mean over seeds, standard error)}} over steps first..last - 1."""
    found: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for event in steps(journal):
        if not first <= event["step"] < last:
            continue
        for name in NAMES:
            for metric in METRICS:
                value = event["metrics"].get(f"strategy/{name}_{metric}")
                if value is not None:
                    found[name, metric][event["seed"]].append(value)
    rows: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for (name, metric), by_seed in found.items():
        means = [float(np.mean(values)) for values in by_seed.values()]
        error = float(np.std(means, ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("nan")
        rows[name][metric] = (float(np.mean(means)), error)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--windows", default="5-20,20-40,40-61")
    options = parser.parse_args()
    for journal in sorted((options.sweep / "records").glob("trial-*.jsonl")):
        print(f"\n{journal.stem}")
        for window in options.windows.split(","):
            first, last = (int(end) for end in window.split("-"))
            rows = table(journal, first, last)
            print(f"\n| steps {first} to {last - 1} | MAE | MSE | Pearson r |\n|---|---|---|---|")
            for name, label in NAMES.items():
                if name not in rows:
                    continue
                cells = [rows[name].get(metric) for metric in METRICS]
                shown = [f"{cell[0]:.3f} ± {cell[1]:.3f}" if cell else "-" for cell in cells]
                print(f"| {label} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
