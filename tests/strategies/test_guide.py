"""docs/strategies.md is true: its specs build, and its own classes train and restore."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.strategies.engine import FakeEngine, provided, stats
from trainables.strategies.config import parse_strategy

PAGE = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text()
SPECS = [yaml.safe_load(text)["strategy"] for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
CODE = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The guide's code blocks, importable as the guide says."""
    for name, code in CODE:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for module in [m for m in sys.modules if m.split(".")[0] == "mypkg"]:
        del sys.modules[module]


def engine() -> FakeEngine:
    return FakeEngine(np.linspace(0.05, 0.95, 40), np.zeros(40, np.int64))


def test_guide_has_specs_and_code() -> None:
    assert len(SPECS) == 9
    assert [name for name, _ in CODE] == ["mypkg/mine.py", "mypkg/whole.py"]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_spec_of_the_guide_trains_two_steps(spec: object) -> None:
    strategy, world = provided(parse_strategy(spec).build()), engine()
    for step in range(2):
        batch = world.step(strategy, step)
        scores = strategy.score(batch)
        assert np.isfinite(scores.advantage_N).all()
        assert scores.weight_N.any()
        strategy.observe(batch, stats(step))


def test_own_prior_estimates_the_last_rate_it_saw_and_restores() -> None:
    config = parse_strategy(SPECS[-2])
    strategy, world = provided(config.build()), engine()
    first = world.step(strategy, 0)
    assert strategy.score(first).diagnostics["prior_mean"] == pytest.approx(0.4)
    strategy.observe(first, stats())
    twin = provided(config.build())
    twin.load_state_dict(strategy.state_dict())
    world.cursor = 0
    again = world.step(strategy, 1)
    np.testing.assert_array_equal(twin.score(again).advantage_N, strategy.score(again).advantage_N)
    start = first.round_N == 0
    rate_P = np.bincount(first.prompt_N[start], first.correct_N[start]) / np.bincount(first.prompt_N[start])
    assert strategy.score(again).diagnostics["prior_mean"] == pytest.approx(rate_P.mean())


def test_own_strategy_doubles_the_advantage() -> None:
    batch = engine().step(parse_strategy("dr_grpo").build(), 0)
    own = parse_strategy(SPECS[-1]).build().score(batch)
    plain = parse_strategy("dr_grpo").build().score(batch)
    np.testing.assert_allclose(own.advantage_N, 2.0 * plain.advantage_N)
