"""Slots on nodes: each process needs one node that is large enough for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import PlanError
from trimtab.planning.machine import GB
from trimtab.planning.placement import Cluster, Node, plan_on
from trimtab.sweepspec.spec import SweepSpec


def spec(**slots: Any) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "s",
            "reference": {"strategy": {"preset": "dapo", "group_size": 4}},
            "candidates": [{"strategy": "v05"}],
            "search": {"trials": 7},
            "slots": {"memory_gb": 2, **slots},
        }
    )


def nodes(*resources: dict[str, float]) -> Cluster:
    return Cluster(tuple(Node(f"n{i}", {"memory": 100.0 * GB, **given}) for i, given in enumerate(resources)))


def test_what_fits_in_all_may_fit_on_no_node() -> None:
    """There are four cores in total, but no node has the two cores that a learner needs."""
    with pytest.raises(PlanError, match=r"learner worker needs a node with 2 CPU.*4 x \(1 CPU"):
        plan_on(spec(learner_cpus=2), nodes(*[{"CPU": 1}] * 4))
    assert plan_on(spec(learner_cpus=2), nodes({"CPU": 2}, {"CPU": 2})).slots == 1


def test_places_named_by_a_resource_are_kept_apart() -> None:
    apart = spec(learner_cpus=1, engine_cpus=1, learner_resource="learner", engine_resource="engine")
    cluster = nodes({"CPU": 2.2, "learner": 1}, {"CPU": 1, "engine": 1})
    assert plan_on(apart, cluster).slots == 1
    with pytest.raises(PlanError, match=r"engine needs a node with 1 CPU.*0\.001 engine"):
        plan_on(apart, nodes({"CPU": 4, "learner": 1}))


def test_a_number_asked_for_is_not_lowered() -> None:
    cluster = nodes({"CPU": 1.5}, {"CPU": 1.5})
    assert plan_on(spec(learner_cpus=0.9, engine_cpus=0.4), cluster).slots == 2
    with pytest.raises(PlanError, match=r"slots\.count"):
        plan_on(spec(learner_cpus=0.9, engine_cpus=0.4, count=3), cluster)


def test_the_heads_memory_is_no_place_for_a_slot() -> None:
    cluster = Cluster((Node("head", {"memory": 100.0 * GB}), Node("w", {"CPU": 4, "memory": 1.0 * GB})))
    with pytest.raises(PlanError, match="memory"):
        plan_on(spec(), cluster)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=6),
    st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    st.sampled_from([0.25, 0.5, 1.0, 2.0]),
)
def test_never_more_than_the_nodes_hold(cpus: list[int], learner: float, engine: float) -> None:
    cluster = nodes(*[{"CPU": float(n)} for n in cpus])
    try:
        plan = plan_on(spec(learner_cpus=learner, engine_cpus=engine), cluster)
    except PlanError:
        assert learner + engine + 0.1 > min(sum(cpus), max(cpus))
        return
    assert 1 <= plan.slots <= 8
    assert plan.slots * (learner + engine + 0.1) <= sum(cpus) + 1e-6
