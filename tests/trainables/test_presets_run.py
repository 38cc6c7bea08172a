"""Every preset that needs no learned prior trains on real parts, by its name alone or spelled out."""

from __future__ import annotations

from typing import Any

import pytest

from trainables.strategies.config import StrategyConfig, parse_strategy, preset_names

READY = [name for name in preset_names() if not parse_strategy(name).missing()]


def test_most_presets_are_ready():
    assert {"grpo", "dr_grpo", "rloo", "dapo", "reinforce_pp", "remax", "v05", "spo", "jspo"} <= set(READY)


@pytest.mark.parametrize("name", READY)
def test_a_preset_trains_by_its_name(bench: Any, name: str):
    events = bench.run(bench.config(strategy=name, steps=3), [0])
    assert events[-1]["outcome"] == "finished", events[-1]["error"]
    steps = [e for e in events if e["event"] == "step"]
    assert max(e["metrics"]["rollouts"] for e in steps) <= 32
    assert steps[-1]["rollouts"] > 64
    assert any(e["metrics"]["updates"] > 0 for e in steps)


def test_a_preset_opened_into_its_axes_is_the_same_strategy(bench: Any):
    opened = {
        "prior": "strata",
        "fusion": {"type": "tested", "alpha": 0.1, "leave_one_out": True},
        "budget": {"type": "sequential", "k_min": 4, "k_max": 8},
    }
    by_axes = bench.config(strategy=opened)
    by_name = bench.config(strategy={"preset": "v05_loo", "group_size": 4, "k_max": 8, "alpha": 0.1})
    assert isinstance(by_axes.strategy, StrategyConfig)
    curves = []
    for config in (by_axes, by_name):
        events = bench.run(config, [0])
        assert events[-1]["outcome"] == "finished", events[-1]["error"]
        curves.append([e["metrics"]["loss"] for e in events if e["event"] == "step"])
    assert curves[0] == curves[1]
