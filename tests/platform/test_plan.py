"""What fits is counted before anything starts; what does not is refused with the numbers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from trimtab.errors import PlanError
from trimtab.machine import this_machine
from trimtab.plan import GB, HEAD_BYTES, make_plan, render
from trimtab.spec import SweepSpec, load_spec, parse_spec

Raw = dict[str, Any]
MEMORY = 16 * GB


def test_two_slots_of_the_quickstart_fill_two_cores() -> None:
    plan = make_plan(load_spec("quickstart"), 2.0, 0, MEMORY)
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
    console.print(render(make_plan(load_spec("quickstart"), 2.0, 0, MEMORY)))
    text = console.export_text()
    for part in ("6 (1 reference + 5 searched)", "18 (6 configurations x 3 seeds)", "138,240", "2 (2 fit)"):
        assert part in text


@given(st.floats(1, 64), st.floats(5, 256))
def test_what_is_planned_always_fits(cpus: float, memory_gb: float) -> None:
    planned = make_plan(load_spec("quickstart"), cpus, 0, int(memory_gb * GB))
    assert 1 <= planned.slots <= planned.fits
    assert planned.slots * planned.slot.cpus <= cpus + 1e-6
    assert planned.slots * planned.slot.memory_bytes <= memory_gb * GB - HEAD_BYTES + 1


def test_this_machine_has_something_to_offer() -> None:
    machine = this_machine()
    assert machine.cpus > 0
    assert machine.memory_bytes > GB
