"""Every shipped space loads, fits where it says it fits, starts with the papers' values, and can be built."""

from __future__ import annotations

import itertools

import pytest

from trimtab.planning.machine import GB, Machine
from trimtab.planning.placement import plan_here
from trimtab.sweepspec.load import load_spec, shipped_spaces
from trimtab.sweepspec.space.check import corners
from trimtab.sweepspec.space.suggest import enqueued, own_values

SPACES = sorted(shipped_spaces())
PRODUCTION = ("math_qwen3_4b_poise", "math_qwen3_4b_v05")
SMALL = [name for name in SPACES if name not in PRODUCTION]


def test_these_spaces_are_shipped() -> None:
    assert SPACES == [
        "across_axes", "constant_compute", "dapo_reference", "math_qwen3_4b_poise", "math_qwen3_4b_v05",
        "poise", "poise_constant_compute", "quickstart", "sorting", "v05", "v05_small",
    ]  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_two_cores_hold_it(name: str) -> None:
    plan = plan_here(load_spec(name), Machine(2.0, 0, 16 * GB))
    assert plan.slots == 2


@pytest.mark.parametrize("name", PRODUCTION)
def test_two_nodes_of_eight_gpus_hold_it(name: str) -> None:
    """On the cluster that its head names, one slot on each node."""
    head = shipped_spaces()[name].read_text(encoding="utf-8")
    command = next(line for line in head.splitlines() if line.startswith(f"#   trimtab plan {name}"))
    numbers = dict(zip(*[iter(command.split()[4:])] * 2, strict=True))
    machine = Machine(
        cpus=float(numbers["--cpus"]),
        gpus=int(numbers["--gpus"]),
        memory_bytes=int(numbers["--memory-gb"]) * GB,
        gpu_memory_bytes=int(numbers["--gpu-memory-gb"]) * GB,
    )
    assert (numbers["--nodes"], machine.gpus) == ("2", 8)
    plan = plan_here(load_spec(name), machine, nodes=2)
    assert plan.places == tuple(f"node {k}: 4 learner workers, 4 engines" for k in (0, 1))
    assert plan.gpu_memory is not None


@pytest.mark.parametrize("name", SPACES)
def test_own_values_run_first_and_the_reference_is_searched_as_much(name: str) -> None:
    spec = load_spec(name)
    for families in ((spec.reference,), spec.candidates):
        queue = enqueued(spec, families)
        for searched, first in zip(families, queue, strict=False):
            own = own_values(spec.space_of(searched))
            assert own is not None
            assert {
                f"{spec.label_of(searched)}.{key}": value for key, value in own.items()
            }.items() <= first.items()
    if name in ("quickstart", "sorting"):
        assert spec.reference_trials == spec.best_supplied == 4
        assert set(spec.quotas) == {4}
    elif name != "v05_small":
        assert spec.space_of(spec.reference).ranges
        assert spec.reference_trials >= max(spec.quotas)


@pytest.mark.parametrize("name", SPACES)
def test_what_it_holds_can_be_built(name: str) -> None:
    spec = load_spec(name)
    for searched in (spec.reference, *spec.candidates):
        for values in itertools.islice(corners(spec.space_of(searched)), 100):
            spec.config_of(searched, values).strategy.build()


@pytest.mark.parametrize("name", SPACES)
def test_its_head_tells_question_compute_and_command(name: str) -> None:
    head = shipped_spaces()[name].read_text(encoding="utf-8").partition("\nname:")[0]
    assert f"trimtab plan {name}" in head
    if name != "quickstart":
        spec = load_spec(name)
        assert "# Question: " in head
        assert "# Compute: " in head
        assert f"{spec.candidate_trials}" in head
        assert f"{spec.budget:,}" in head
