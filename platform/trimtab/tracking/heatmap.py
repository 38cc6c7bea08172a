"""Per-layer metrics as heat maps: one HTML page without scripts, which MLflow shows as an artifact."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping

LAYER = re.compile(r"^strategy/(layer_\w+)/(\d+)$")
COLUMNS = 100
"""Maximum number of columns. A longer run is averaged over equal groups of steps."""
Cells = Mapping[tuple[int, int], float]
"""(layer, step) -> value."""


class LayerCurves:
    """The values of `strategy/layer_<metric>/<layer>` over the steps of one run."""

    def __init__(self) -> None:
        self._metrics: dict[str, dict[tuple[int, int], float]] = defaultdict(dict)

    def add(self, name: str, step: int, value: float) -> None:
        """Add a value if its metric belongs to a layer; ignore all other metrics."""
        found = LAYER.match(name)
        if found and math.isfinite(value):
            self._metrics[found[1]][int(found[2]), step] = value

    def page(self) -> str | None:
        """Return the page with one heat map per metric, or None if no metric belonged to a layer."""
        if not self._metrics:
            return None
        maps = "\n".join(_map(name, cells) for name, cells in sorted(self._metrics.items()))
        return (
            "<!doctype html><meta charset='utf-8'><title>layers</title><style>"
            "body{font:13px sans-serif;margin:1em}table{border-collapse:collapse;margin:0 0 2em}"
            "td{width:9px;height:14px;padding:0}th{font-weight:normal;text-align:right;padding-right:6px}"
            f"</style>\n{maps}\n"
        )


def _map(name: str, cells: Cells) -> str:
    layers = sorted({layer for layer, _ in cells})
    steps = sorted({step for _, step in cells})
    parts = min(len(steps), COLUMNS)
    groups = [steps[i * len(steps) // parts : (i + 1) * len(steps) // parts] for i in range(parts)]
    grid = {
        (layer, column): _mean([cells[layer, step] for step in group if (layer, step) in cells])
        for layer in layers
        for column, group in enumerate(groups)
    }
    known = [value for value in grid.values() if value is not None]
    low, high = min(known), max(known)
    rows = []
    for layer in reversed(layers):
        line = [_cell(grid[layer, c], low, high, layer, group) for c, group in enumerate(groups)]
        rows.append(f"<tr><th>{layer}</th>{''.join(line)}</tr>")
    return (
        f"<h3>{name} by layer (rows) and step {steps[0]} to {steps[-1]} (columns)</h3>"
        f"<p>light {low:.3f}, dark {high:.3f}; hover for values</p><table>{''.join(rows)}</table>"
    )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _cell(value: float | None, low: float, high: float, layer: int, group: list[int]) -> str:
    if value is None:
        return "<td></td>"
    share = (value - low) / (high - low) if high > low else 0.5
    steps = f"step {group[0]}" if len(group) == 1 else f"steps {group[0]} to {group[-1]}"
    return (
        f"<td style='background:hsl(215 60% {95 - 65 * share:.0f}%)' "
        f"title='layer {layer}, {steps}: {value:.4f}'></td>"
    )
