"""Every preset trains on real parts, by its name alone or spelled out."""

from __future__ import annotations

from typing import Any

import pytest

from trainables.strategies.config import StrategyConfig, preset_names


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_trains_by_its_name(bench: Any, name: str):
    events = bench.run(bench.config(strategy=name, steps=3), [0])
    assert events[-1]["outcome"] == "finished", events[-1]["error"]
    steps = [e for e in events if e["event"] == "step"]
    assert max(e["metrics"]["rollouts"] for e in steps) <= 32
    assert steps[-1]["rollouts"] > 64
    assert any(e["metrics"]["updates"] > 0 for e in steps)


def test_poise_reads_the_learners_states_and_scores_every_layer(bench: Any):
    strategy = {"preset": "poise", "group_size": 4, "warmup_updates": 2, "survey": True}
    events = bench.run(bench.config(strategy=strategy, steps=5), [0])
    assert events[-1]["outcome"] == "finished", events[-1]["error"]
    metrics = [e["metrics"] for e in events if e["event"] == "step"]
    assert [m["strategy/probe_rows"] for m in metrics if "strategy/probe_rows" in m] == [64, 96, 128]
    assert {f"strategy/layer_mae/{block:02d}" for block in range(4)} <= set(metrics[-1])
    # 128 columns of two parts and three entropies in fp32, and 4 blocks of 2 x 64 in fp16.
    assert metrics[-1]["features_kb_per_rollout"] == pytest.approx((259 * 4 + 4 * 2 * 64 * 2) / 1e3)


def test_a_probe_under_the_v05_test_is_read_after_every_round(bench: Any):
    strategy = {
        "prior": {"type": "probe", "layer": "auto"},
        "fusion": {"type": "tested", "leave_one_out": True, "per_round": True},
        "budget": {"type": "sequential", "k_min": 2, "k_max": 6, "cost": 0.001},
    }
    events = bench.run(bench.config(strategy=strategy, steps=4), [0])
    assert events[-1]["outcome"] == "finished", events[-1]["error"]
    metrics = [e["metrics"] for e in events if e["event"] == "step"]
    assert max(m["rounds"] for m in metrics) > 1
    assert all("strategy/prior_mae" in m for m in metrics)


def test_a_preset_opened_into_its_axes_is_the_same_strategy(bench: Any):
    opened = {
        "prior": {"type": "context", "keep": 0.9},
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
