"""Heat maps of layers: which metrics they contain, what the page shows, and that MLflow holds it."""

from __future__ import annotations

import math
import re

from trimtab.tracking.heatmap import COLUMNS, LayerCurves


def test_a_map_has_a_row_for_each_layer_and_says_its_values() -> None:
    curves = LayerCurves()
    for step in range(3):
        for layer in range(4):
            curves.add(f"strategy/layer_mae/{layer:02d}", step, 0.1 * layer + 0.01 * step)
    curves.add("strategy/layer_pearson/00", 2, 0.5)
    curves.add("strategy/prior_mae", 2, 0.5)
    curves.add("strategy/layer_mae/03", 3, math.nan)
    page = curves.page()
    assert page is not None
    assert page.count("<h3>") == 2
    assert page.count("<td style=") == 4 * 3 + 1
    assert "layer 3, step 2: 0.3200" in page
    assert "light 0.000, dark 0.320" in page
    assert "<script" not in page
    light = [re.search(rf"60% (\d+)%\)' title='layer {layer}, step 0", page) for layer in (0, 3)]
    first, second = (int(found[1]) for found in light if found)
    assert first > second, "larger is darker"


def test_long_runs_are_averaged_in_equal_parts_and_gaps_stay_empty() -> None:
    curves = LayerCurves()
    for step in range(1000):
        curves.add("strategy/layer_mae/00", step, float(step))
    curves.add("strategy/layer_mae/01", 999, 1.0)
    page = curves.page()
    assert page is not None
    assert page.count("<td style=") == COLUMNS + 1
    assert page.count("<td></td>") == COLUMNS - 1
    assert "layer 0, steps 0 to 9: 4.5000" in page


def test_without_layers_there_is_no_map() -> None:
    assert LayerCurves().page() is None
