"""A whole trial on a real slot: compute accounting, determinism, resuming, failing, stopping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from slot_bench import Events, curve, steps, timeless

from trimtab.sweepdir.journal import Tail


@pytest.fixture(scope="module")
def grpo(bench: Any) -> Events:
    """One finished trial of two seeds that several tests look at."""
    found: Events = bench.run(bench.config(), [0, 1])
    return found


def test_a_trial_spends_its_budget_and_evaluates_at_equal_compute(grpo):
    assert grpo[-1] == {"event": "outcome", "outcome": "finished", "error": None, "cause": None}
    for seed in (0, 1):
        assert [e["rollouts"] for e in steps(grpo, seed)] == [32, 64, 96, 128]
        assert [r for r, _ in curve(grpo, seed)] == [0, 64, 128]


def test_every_step_says_where_its_time_and_compute_went(grpo):
    for event in steps(grpo):
        metrics = event["metrics"]
        parts = [v for k, v in metrics.items() if k.startswith("seconds/") and k != "seconds/step"]
        assert metrics["seconds/step"] == pytest.approx(sum(parts))
        assert {"seconds/generate", "seconds/verify", "seconds/logprobs", "seconds/update"} <= metrics.keys()
        assert metrics["rollouts"] == 32
        assert event["tokens"] > 0


def test_sampler_and_learner_agree_after_every_sync(grpo):
    for event in steps(grpo):
        assert event["metrics"]["parity"] < 1e-3
        assert event["metrics"]["mismatch_kl"] < 1e-4
        assert event["metrics"]["effective_sample_size"] > 0.99


def test_same_config_and_seed_give_the_same_curve_and_another_seed_does_not(bench, grpo):
    again = bench.run(bench.config(), [1, 0])
    for seed in (0, 1):
        mine = [e for e in timeless(grpo) if e["seed"] == seed]
        assert [e for e in timeless(again) if e["seed"] == seed] == mine
    assert steps(grpo, 0)[0]["metrics"]["loss"] != steps(grpo, 1)[0]["metrics"]["loss"]


def test_a_slot_warmed_by_another_strategy_gives_bit_equal_metrics(bench, grpo):
    loud = bench.config(strategy="v05", learner={"lr": 0.05, "zero_stage": 2}, steps=2)
    assert bench.run(loud, [7])[-1]["outcome"] in ("finished", "failed")
    assert timeless(bench.run(bench.config(), [0])) == [e for e in timeless(grpo) if e["seed"] == 0]


@pytest.mark.parametrize("strategy", [{"preset": "dapo", "group_size": 4}, {"preset": "v05"}])
def test_each_presets_compute_stays_within_every_steps_budget(bench, strategy):
    events = bench.run(bench.config(strategy=strategy, steps=5), [0])
    assert events[-1]["outcome"] == "finished"
    spent = [e["metrics"]["rollouts"] for e in steps(events)]
    assert max(spent) <= 32
    assert 128 < sum(spent) <= 160, "only half a step or less stays unspent"
    assert steps(events)[-1]["rollouts"] == sum(spent)


def test_a_run_resumed_from_a_checkpoint_equals_one_that_never_stopped(bench, tmp_path):
    strategy = {"preset": "v05", "group_size": 4}
    whole = bench.config(strategy=strategy, steps=6, checkpoint_every=3)
    straight = bench.run(whole, [0], tmp_path / "straight")
    token = bench.submit(whole, [0], tmp_path / "cut")
    for event in bench.follow(token):
        if event["event"] == "step" and event["step"] == 4:
            ray.get(bench.broker.cancel.remote(token))
    assert (tmp_path / "cut" / "seed-0" / "checkpoint-3").is_dir()
    resumed = bench.run(whole, [0], tmp_path / "cut")
    assert steps(resumed)[0]["step"] == 4
    expected = [e for e in timeless(straight) if e["step"] > 3]
    assert [e for e in timeless(resumed) if e["step"] > 3] == expected


def test_a_checkpoint_is_a_model_that_transformers_loads(grpo):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (folder,) = {e["checkpoint"] for e in grpo if e["event"] == "run_finished" and e["seed"] == 0}
    model = Path(folder) / "model"
    assert AutoTokenizer.from_pretrained(model)("1+1=").input_ids
    assert AutoModelForCausalLM.from_pretrained(model).config.model_type == "qwen3"


def test_a_diverging_trial_fails_with_its_cause_and_the_slot_goes_on(bench):
    events = bench.run(bench.config(learner={"lr": 1e30}), [0, 1])
    assert (events[-1]["outcome"], events[-1]["cause"]) == ("failed", "diverged")
    (end,) = [e for e in events if e["event"] == "run_finished"]
    assert end["status"] == "failed"
    assert "Traceback" in end["traceback"]
    after = bench.run(bench.config(steps=1), [0])[-1]
    assert after["outcome"] == "finished", after["error"]


def test_a_stopped_trial_frees_the_slot_within_a_step(bench):
    token = bench.submit(bench.config(steps=200), [0])
    seen = 0
    for event in bench.follow(token):
        if event["event"] == "step":
            seen += 1
            ray.get(bench.broker.cancel.remote(token))
        if event["event"] == "run_finished":
            assert event["status"] == "stopped"
    assert seen <= 3


def test_the_journal_holds_every_event_once(bench):
    token = bench.submit(bench.config(steps=2), [0, 1])
    events = list(bench.follow(token))
    journal = [e for e in Tail(bench.folder).read() if e["trial"] == bench.names[token]]
    assert [e["event"] for e in journal[1:]] == [e["event"] for e in events[:-1]]
    assert [(e["seed"], e["step"]) for e in journal if e["event"] == "step"] == [
        (seed, step) for seed in (0, 1) for step in (1, 2)
    ]


def test_a_prompt_that_leaves_no_room_is_refused_with_the_numbers(bench):
    tight = bench.config(
        engine={"max_model_len": 12}, sampling={"max_tokens": 8}, evaluation={"every": 1, "samples": 1}
    )
    events = bench.run(tight, [0])
    assert events[-1]["outcome"] == "failed"
    assert "engine.max_model_len" in events[-1]["error"]
