"""What fits is counted before anything starts; what does not is refused with the numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from trainables.models.shape import QWEN3_4B, model_shape
from trimtab.errors import PlanError, SpecError
from trimtab.gpus import Gpu, installed_gpus, smallest, usable
from trimtab.planning.duration import with_duration
from trimtab.planning.gpu_memory import estimate
from trimtab.planning.machine import GB, Machine, this_machine
from trimtab.planning.placement import plan_here
from trimtab.planning.plan import HEAD_BYTES, make_plan, render
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepdir.journal import append
from trimtab.sweepspec.load import load_spec, parse_spec
from trimtab.sweepspec.spec import SweepSpec
from trimtab.tracking.system import NodeMeter

Raw = dict[str, Any]
MEMORY = 16 * GB


def test_two_slots_of_the_v05_small_fill_two_cores() -> None:
    plan = make_plan(load_spec("v05_small"), 2.0, 0, MEMORY)
    assert plan.slot.cpus == pytest.approx(1.0)
    assert (plan.slots, plan.fits) == (2, 2)
    assert (plan.trials, plan.runs, plan.rollouts) == (6, 18, 18 * 7680)


@pytest.mark.parametrize(("cpus", "slots"), [(1.0, 1), (3.0, 3), (64.0, 6)])
def test_as_many_slots_as_fit_but_no_more_than_configurations(
    spec: SweepSpec, cpus: float, slots: int
) -> None:
    assert make_plan(spec, cpus, 0, 100 * GB).slots == slots


def test_memory_limits_slots_too(spec: SweepSpec) -> None:
    assert make_plan(spec, 64.0, 0, 8 * GB).slots == 2


@pytest.mark.parametrize(
    ("slots", "learner", "expected"),
    [
        ({"learner_cpus": 4}, {}, ["4.55 CPUs", "of 2", "slots.learner_cpus"]),
        ({}, {"workers": 4}, ["2.35 CPUs", "4 learner workers x 0.45", "of 2"]),
        ({"engine_gpus": 1}, {}, ["1 GPUs", "of 0", "slots.engine_gpus"]),
        ({"memory_gb": 40}, {}, ["40.0 GB", "14.0", "slots.memory_gb"]),
        ({"count": 3}, {}, ["slots.count: 3", "3 CPUs", "of 2"]),
    ],
)
def test_refuses_what_cannot_fit(raw: Raw, slots: Raw, learner: Raw, expected: list[str]) -> None:
    raw["slots"], raw["trial"]["learner"] = slots, learner
    with pytest.raises(PlanError) as caught:
        make_plan(parse_spec(raw), 2.0, 0, MEMORY)
    for part in expected:
        assert part in str(caught.value)


def test_an_engine_across_gpus_needs_as_many(raw: Raw) -> None:
    raw["trial"]["engine"] = {"tensor_parallel": 2}
    raw["slots"] = {"engine_gpus": 1, "learner_gpus": 1}
    with pytest.raises(PlanError, match=r"slots\.engine_gpus.*set slots\.engine_gpus to 2"):
        make_plan(parse_spec(raw), 8.0, 8, 100 * GB)


def test_fractions_share_a_gpu(raw: Raw) -> None:
    raw["slots"] = {"engine_gpus": 0.3, "learner_gpus": 0.2}
    assert make_plan(parse_spec(raw), 64.0, 1, 100 * GB).slots == 2


def test_the_plan_says_what_would_run() -> None:
    console = Console(record=True, width=100)
    console.print(render(make_plan(load_spec("v05_small"), 2.0, 0, MEMORY)))
    text = console.export_text()
    for part in ("6 (1 reference + 5 searched)", "18 (6 configurations x 3 seeds)", "138,240", "2 (2 fit)"):
        assert part in text


@given(st.floats(1, 64), st.floats(5, 256))
def test_what_is_planned_always_fits(cpus: float, memory_gb: float) -> None:
    planned = make_plan(load_spec("v05_small"), cpus, 0, int(memory_gb * GB))
    assert 1 <= planned.slots <= planned.fits
    assert planned.slots * planned.slot.cpus <= cpus + 1e-6
    assert planned.slots * planned.slot.memory_bytes <= memory_gb * GB - HEAD_BYTES + 1


def test_this_machine_has_something_to_offer() -> None:
    machine = this_machine()
    assert machine.cpus > 0
    assert machine.memory_bytes > GB


class NoDriver(Exception):
    """What NVML raises without a driver."""


class NotSupported(NoDriver):
    """What NVML raises for a question that a GPU does not answer."""


def driver(monkeypatch: pytest.MonkeyPatch, *memory: int | None, works: bool = True) -> None:
    """Put a driver in the place of NVML: one GPU for each size."""

    def start() -> None:
        if not works:
            raise NoDriver

    def size(gpu: int) -> SimpleNamespace:
        if memory[gpu] is None:
            raise NotSupported
        return SimpleNamespace(total=memory[gpu], used=GB)

    def rates(gpu: int) -> SimpleNamespace:
        if memory[gpu] is None:
            raise NoDriver
        return SimpleNamespace(gpu=25)

    nvml = SimpleNamespace(
        NVMLError=NoDriver,
        NVMLError_NotSupported=NotSupported,
        nvmlInit=start,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(memory),
        nvmlDeviceGetHandleByIndex=lambda k: k,
        nvmlDeviceGetName=lambda gpu: f"GPU {gpu}",
        nvmlDeviceGetMemoryInfo=size,
        nvmlDeviceGetUtilizationRates=rates,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)


@pytest.mark.parametrize(
    ("visible", "count"), [(None, 3), ("0,2", 2), ("1", 1), ("", 0), ("-1", 0), ("GPU-a, GPU-b", 2)]
)
def test_gpus_are_what_the_driver_says_and_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int
) -> None:
    driver(monkeypatch, 80 * GB, None, 40 * GB)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.name for gpu in usable(installed_gpus())] == ["GPU 0", "GPU 1", "GPU 2"][:count]
    machine = this_machine()
    assert (machine.gpus, machine.gpu_memory_bytes) == (count, 40 * GB if count else None)


def test_what_a_gpu_does_not_say_is_left_out_of_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that refuses a question is still there: a MIG slice may not be asked for its load."""
    driver(monkeypatch, 80 * GB, None)
    assert installed_gpus() == [Gpu("GPU 0", 80 * GB, GB, 25.0), Gpu("GPU 1", None)]
    metrics = NodeMeter().event()["metrics"]
    assert {name: value for name, value in metrics.items() if name.startswith("gpu_")} == {
        "gpu_0_utilization_percentage": 25.0,
        "gpu_0_memory_usage_gigabytes": 1.0,
    }


def test_gpus_of_unknown_size_and_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, None)
    assert len(installed_gpus()) == 1
    assert smallest(installed_gpus()) is None
    driver(monkeypatch, 80 * GB, works=False)
    assert installed_gpus() == []
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it raises ImportError
    assert installed_gpus() == []


def on_gpus(raw: Raw, learner_gpus: float, engine_gpus: float, /, **trial: Any) -> SweepSpec:
    raw["slots"] = {"learner_gpus": learner_gpus, "engine_gpus": engine_gpus, "memory_gb": 8}
    raw["trial"] = {**raw["trial"], **trial}
    return parse_spec(raw)


def gpus(count: int, memory_gb: int | None = None) -> Machine:
    return Machine(64.0, count, 256 * GB, None if memory_gb is None else memory_gb * GB)


def test_ray_is_given_whole_cores_only(spec: SweepSpec) -> None:
    """2.9 cores hold two slots of one core, and a third must not wait for ever."""
    assert plan_here(spec, Machine(2.9, 0, 64 * GB)).slots == 2
    assert plan_here(spec, Machine(2.9, 0, 64 * GB)).cpus == 2
    with pytest.raises(PlanError, match=r"1\.1 CPUs.*of 1"):
        plan_here(
            parse_spec({**spec.model_dump(by_alias=True), "slots": {"engine_cpus": 0.55}}),
            Machine(1.9, 0, 64 * GB),
        )


def test_a_fraction_of_a_gpu_comes_out_of_one_gpu(raw: Raw) -> None:
    """Two GPUs hold 2.0 in all, but not three processes of 0.6."""
    assert plan_here(on_gpus(raw, 0.6, 0.4), gpus(2)).slots == 2
    with pytest.raises(PlanError, match=r"next (engine|learner worker) needs a node with .* 0\.6 GPU"):
        plan_here(on_gpus(raw, 0.6, 0.6, engine={"count": 2}), gpus(2))


def test_an_engine_stays_on_one_node_and_workers_spread(raw: Raw) -> None:
    wide = on_gpus(raw, 1, 4, engine={"tensor_parallel": 4}, learner={"workers": 4})
    assert plan_here(wide, gpus(4), nodes=2).places == ("node 0: 1 engine; node 1: 4 learner workers",)
    assert (
        plan_here(
            on_gpus(raw, 1, 2, engine={"tensor_parallel": 2}, learner={"workers": 2}), gpus(2), nodes=2
        ).slots
        == 1
    )
    with pytest.raises(PlanError, match=r"engine needs a node with .* 4 GPU"):
        plan_here(wide, gpus(2), nodes=4)


def test_parameters_of_qwen3_4b_as_published() -> None:
    """4.0 billion, 3.6 of them outside the embedding (its model card); 144 KiB of cache a token."""
    assert QWEN3_4B.parameters == pytest.approx(4.02e9, rel=2e-3)
    assert QWEN3_4B.parameters - QWEN3_4B.vocabulary * QWEN3_4B.hidden == pytest.approx(3.6e9, rel=2e-2)
    assert 2 * QWEN3_4B.cache_numbers == 144 * 1024


def test_the_tiny_models_parameters_are_its_own(tiny_model: Path) -> None:
    """Counted from config.json, against the numbers that its file of weights holds."""
    from safetensors import safe_open

    shape = model_shape(str(tiny_model))
    assert shape is not None
    with safe_open(tiny_model / "model.safetensors", "np") as file:
        stored = sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
    assert shape.parameters == pytest.approx(stored, rel=0.01)


@pytest.mark.parametrize(("stage", "expected"), [(0, 16.0), (1, 7.0), (2, 5.5), (3, 4.0)])
def test_zero_shares_out_16_bytes_a_parameter(raw: Raw, stage: int, expected: float) -> None:
    """bf16 over four workers: 2 weights + 2 gradients + 12 optimizer bytes."""
    spec = on_gpus(
        raw, 1, 1, model="Qwen/Qwen3-4B", learner={"workers": 4, "zero_stage": stage, "dtype": "bfloat16"}
    )
    found = estimate(spec.reference_config(), spec.slots, None)
    assert found is not None
    states = sum(found.learner[name] for name in ("weights", "gradients", "optimizer"))
    assert states / found.parameters == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("stage", "parts"), [(0, 1), (2, 1), (3, 4)])
def test_the_reference_and_the_entropy_take_memory_of_a_learner(raw: Raw, stage: int, parts: int) -> None:
    learner = {"workers": 4, "zero_stage": stage, "dtype": "bfloat16"}

    def needs(**loss: Any) -> dict[str, int]:
        spec = on_gpus(raw, 1, 1, model="Qwen/Qwen3-4B", learner=learner, loss=loss)
        found = estimate(spec.reference_config(), spec.slots, None)
        assert found is not None
        return found.learner

    plain, held = needs(), needs(kl={"coefficient": 0.1}, entropy_bonus=0.1)
    assert "reference" not in plain
    assert held["reference"] * parts == pytest.approx(2 * QWEN3_4B.parameters)
    assert held["logits"] == 1.5 * plain["logits"]


def test_refuses_what_no_gpu_holds_with_the_numbers(raw: Raw) -> None:
    large = on_gpus(raw, 1, 1, model="Qwen/Qwen3-4B", learner={"zero_stage": 2, "dtype": "bfloat16"})
    with pytest.raises(
        PlanError, match=r"learner worker needs about .*optimizer 48\.\d.* of 80\.0 GB.*zero_stage"
    ):
        plan_here(large, gpus(8, 80))
    plan_here(large, gpus(8))  # GPUs of unknown size: an estimate, no verdict
    share = on_gpus(raw, 1, 0.5, model="Qwen/Qwen3-4B")
    with pytest.raises(PlanError, match=r"gpu_memory_utilization: 0\.85.*slots\.engine_gpus=0\.5"):
        plan_here(share, gpus(8, 900))


WARM = {"strategy": {"preset": "poise"}}


@pytest.mark.parametrize(
    "candidate",
    [
        WARM,
        {"strategy": {"preset": "spo", "warmup": {"updates": 5, "strategy": "rloo"}}},
        {"strategy": {"preset": "ppo", "warmup_updates": 5}},
        {"strategy": {"preset": "poise"}, "search": {"warmup_updates": {"int": [1, 8]}}},
    ],
)
def test_a_warm_up_as_long_as_the_run_is_refused(raw: Raw, candidate: Raw) -> None:
    raw["candidates"], raw["trial"]["steps"] = [candidate], 5
    raw["search"] = {}
    with pytest.raises(SpecError, match=r"candidates.0.strategy: .*all 5 steps of a run would be warm-up"):
        parse_spec(raw)
    assert parse_spec(raw, outside=False), "a sweep that has run can still be read"


@pytest.mark.parametrize(("steps", "warned"), [(48, True), (49, False)])
def test_a_warm_up_of_a_third_of_the_run_is_a_warning(raw: Raw, steps: int, warned: bool) -> None:
    raw["candidates"], raw["trial"]["steps"] = [WARM], steps
    raw["search"] = {}
    found = [line for line in make_plan(parse_spec(raw), 2.0, 0, MEMORY).warnings if "warm-up" in line]
    assert bool(found) == warned
    if warned:
        assert "poise(k=2): 16 of a run's 48 updates (33%) are warm-up under rloo" in found[0]


def test_the_duration_is_that_of_the_last_sweeps_here_or_not_known(spec: SweepSpec, tmp_path: Path) -> None:
    planned = with_duration(make_plan(spec, 2.0, 0, MEMORY), spec)
    assert planned.duration_s is None
    assert planned.duration.startswith("not known: no sweep of this model, task and slot has finished a run")
    folder = SweepDir.create(tmp_path / "home", "v05_small")
    folder.write_spec(spec)
    own = {"trial": "t0", "seed": 0}
    for event in (
        {"event": "trial_started", "trial": "t0", "time": 100.0},
        {**own, "event": "stage", "stage": "resetting", "time": 130.0},
        {**own, "event": "step", "rollouts": 1000, "metrics": {}, "time": 170.0},
        {**own, "event": "run_finished", "status": "finished", "time": 180.0},
    ):
        append(folder.path, event)
    planned = with_duration(make_plan(spec, 2.0, 0, MEMORY), spec)
    assert planned.duration_s == pytest.approx(30 + 18 * 7680 * 0.05 / 2)
    console = Console(width=200)
    with console.capture() as text:
        console.print(render(planned))
    assert "about 0:58:06, by the pace of v05_small" in text.get()
    other = spec.model_copy(update={"trial": spec.trial.model_copy(update={"model": "/elsewhere"})})
    assert with_duration(planned, other).duration.startswith("not known")
