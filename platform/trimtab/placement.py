"""Whether slots fit on the nodes of a cluster: each process needs one node that can hold it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimtab.errors import PlanError
from trimtab.machine import Machine
from trimtab.plan import GB, HEAD_BYTES, TOLERANCE, TRIAL_CPUS, Plan, make_plan
from trimtab.spec import SweepSpec

MARK = 0.001
"""How much of a node's custom resource (`slots.learner_resource`) a process takes: it marks a place."""


@dataclass(frozen=True)
class Node:
    """One node of a cluster."""

    name: str
    resources: Mapping[str, float]
    """As Ray counts them: CPU, GPU, memory (bytes) and custom ones."""

    @property
    def works(self) -> bool:
        """Whether anything may be scheduled here; heads often offer no CPU."""
        return self.resources.get("CPU", 0) > 0


@dataclass(frozen=True)
class Cluster:
    """What a Ray cluster offers."""

    nodes: tuple[Node, ...]

    @property
    def cpus(self) -> float:
        return sum(node.resources.get("CPU", 0) for node in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(node.resources.get("GPU", 0) for node in self.nodes)

    @property
    def memory_bytes(self) -> int:
        """Memory that Ray offers to work; the driver lives beside it, on the head."""
        return int(sum(node.resources.get("memory", 0) for node in self.nodes if node.works))


def plan_on(spec: SweepSpec, cluster: Cluster, capacity: Machine | None = None) -> Plan:
    """The plan on a cluster. PlanError: not even one slot (or not the number asked for) fits on its nodes.

    `capacity`: what an autoscaler may add up to; then the nodes that are there now do not count.
    """
    if capacity is not None:
        return make_plan(spec, capacity.cpus, capacity.gpus, capacity.memory_bytes)
    plan = make_plan(spec, cluster.cpus, cluster.gpus, cluster.memory_bytes + HEAD_BYTES)
    processes = _processes(spec, plan)
    placed = 0
    free = [dict(node.resources) for node in cluster.nodes if node.works]
    for _ in range(plan.slots):
        stuck = _place(processes, free)
        if stuck is not None:
            if placed == 0 or spec.slots.count != "auto":
                raise PlanError(_stuck(stuck, placed, plan, cluster))
            break
        placed += 1
    return dataclasses.replace(plan, slots=placed, fits=max(placed, 1) if placed < plan.slots else plan.fits)


def _processes(spec: SweepSpec, plan: Plan) -> list[tuple[str, dict[str, float]]]:
    """Name and needs of each process of one slot, the largest first."""
    slot = plan.slot
    memory = slot.memory_bytes / (slot.learner_workers + slot.engines)
    learner = {"CPU": slot.learner_cpus, "GPU": slot.learner_gpus, "memory": memory}
    engine = {"CPU": slot.engine_cpus, "GPU": slot.engine_gpus, "memory": memory}
    if spec.slots.learner_resource:
        learner[spec.slots.learner_resource] = MARK
    if spec.slots.engine_resource:
        engine[spec.slots.engine_resource] = MARK
    found = [("learner worker", learner)] * slot.learner_workers + [("engine", engine)] * slot.engines
    found.sort(key=lambda process: (process[1]["GPU"], process[1]["CPU"]), reverse=True)
    return [*found, ("trial", {"CPU": TRIAL_CPUS})]


def _place(
    processes: Sequence[tuple[str, dict[str, float]]], free: list[dict[str, float]]
) -> tuple[str, dict[str, float]] | None:
    """First fit, the largest first. Takes from `free`; returns the process that has no place."""
    for process in processes:
        needs = {name: amount for name, amount in process[1].items() if amount > 0}
        node = next((node for node in free if _holds(node, needs)), None)
        if node is None:
            return process
        for name, amount in needs.items():
            node[name] -= amount
    return None


def _holds(node: Mapping[str, float], needs: Mapping[str, float]) -> bool:
    return all(node.get(name, 0) + TOLERANCE >= amount for name, amount in needs.items())


def _stuck(process: tuple[str, dict[str, float]], placed: int, plan: Plan, cluster: Cluster) -> str:
    what, needs = process
    wanted = ", ".join(_amount(name, amount) for name, amount in needs.items() if amount > 0)
    kinds = Counter(
        ", ".join(
            _amount(name, amount)
            for name, amount in sorted(node.resources.items())
            if name in ("CPU", "GPU", "memory") or name in needs
        )
        for node in cluster.nodes
    )
    there = "; ".join(f"{count} x ({kind})" for kind, count in kinds.items())
    return (
        f"slots.count: {placed} of {plan.slots} slots have a place on the cluster's nodes; the next {what} "
        f"needs a node with {wanted} free, and the nodes are {there}; lower slots.count or what the "
        f"{what} takes, or add nodes"
    )


def _amount(name: str, amount: float) -> str:
    return f"{amount / GB:.1f} GB memory" if name == "memory" else f"{amount:g} {name}"
