"""POISE's probe beside its authors' code: PCA of raw states, standardised scores, ridge, clipped values.

The values are those of fit_estimator in src/poise/estimator.py of holi-lab/POISE at commit 511641e, for rows
that were fitted and for twelve that were not (tests/parity/data/poise.json says how they were computed).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.strategies.priors.probing.regression import Order, Projection, Regression

DATA: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "poise.json").read_text())
CLOSE = 1e-4
"""The code transforms in float32, and its PCA is randomised; ours is exact and in float64."""


def values(case: dict[str, Any], order: Order) -> np.ndarray:
    parts = [np.array(case[part], dtype=np.float32) for part in ("prompt", "response", "entropies")]
    fitted, rate_R = case["fitted_rows"], np.array(case["target"])
    projection = Projection.fit([part[:fitted] for part in parts], case["components"], order)
    rows = projection.apply(parts)
    return Regression.fit(rows[:fitted], rate_R[:fitted], "ridge", case["penalty"]).predict(rows)


@pytest.mark.parametrize("case", DATA["cases"], ids=lambda case: case["name"])
def test_values_are_the_released_codes(case: dict[str, Any]) -> None:
    np.testing.assert_allclose(values(case, "released"), case["value"], atol=CLOSE)


@pytest.mark.parametrize("case", DATA["cases"][:2], ids=lambda case: case["name"])
def test_the_other_order_departs(case: dict[str, Any]) -> None:
    assert np.abs(values(case, "standardised") - case["value"]).max() > 100 * CLOSE
