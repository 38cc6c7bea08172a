"""Whether slots fit on the nodes of a cluster: each process needs a single node that can hold it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimtab.errors import PlanError
from trimtab.planning.machine import GB, Machine
from trimtab.planning.plan import HEAD_BYTES, TOLERANCE, TRIAL_CPUS, Plan, make_plan
from trimtab.sweepspec.spec import Work

MARK = 0.001
"""Share of a node's custom resource (`slots.learner_resource`) that a process takes: small, because it only
binds the process to nodes that have the resource."""

TRIAL = "trial"


@dataclass(frozen=True)
class Node:
    """One node of a cluster."""

    name: str
    resources: Mapping[str, float]
    """Resources as Ray counts them: CPU, GPU, memory (bytes) and custom ones."""

    @property
    def works(self) -> bool:
        """Return whether anything may be scheduled here; head nodes often offer no CPU."""
        return self.resources.get("CPU", 0) > 0


@dataclass(frozen=True)
class Cluster:
    """What a Ray cluster offers."""

    nodes: tuple[Node, ...]
    gpu_memory_bytes: int | None = None
    """Memory of its smallest GPU; None: not known."""

    @property
    def cpus(self) -> float:
        """Return the CPU cores of all nodes."""
        return sum(node.resources.get("CPU", 0) for node in self.nodes)

    @property
    def gpus(self) -> float:
        """Return the GPUs of all nodes."""
        return sum(node.resources.get("GPU", 0) for node in self.nodes)

    @property
    def memory_bytes(self) -> int:
        """Return the memory in bytes of the nodes that work; the driver's own comes on top, on the head."""
        return int(sum(node.resources.get("memory", 0) for node in self.nodes if node.works))


def plan_here(spec: Work, machine: Machine, nodes: int = 1) -> Plan:
    """Plan a sweep on `nodes` machines of this kind.

    Ray is given whole cores, at least one, and memory is reserved for the driver on the first node.

    Raises:
        PlanError: as in `plan_on`.
    """
    cores = max(1, int(machine.cpus + TOLERANCE))
    cluster = Cluster(
        tuple(
            Node(
                f"node {k}",
                {
                    "CPU": float(cores),
                    "GPU": float(machine.gpus),
                    "memory": float(machine.memory_bytes - (HEAD_BYTES if k == 0 else 0)),
                },
            )
            for k in range(nodes)
        ),
        machine.gpu_memory_bytes,
    )
    return plan_on(spec, cluster)


def plan_on(spec: Work, cluster: Cluster, capacity: Machine | None = None) -> Plan:
    """Plan a sweep on a cluster.

    `capacity`: what an autoscaler may grow the cluster to; the present nodes are then ignored.

    Raises:
        PlanError: not even one slot fits on the nodes, or fewer than the spec asks for.
    """
    if capacity is not None:
        return make_plan(spec, capacity.cpus, capacity.gpus, capacity.memory_bytes, capacity.gpu_memory_bytes)
    plan = make_plan(
        spec, cluster.cpus, cluster.gpus, cluster.memory_bytes + HEAD_BYTES, cluster.gpu_memory_bytes
    )
    processes = _processes(spec, plan)
    places: list[str] = []
    free = [_Free(node) for node in cluster.nodes if node.works]
    for _ in range(plan.slots):
        where = _place(processes, free)
        if isinstance(where, _Stuck):
            if not places or spec.slots.count != "auto":
                raise PlanError(_stuck(where, len(places), plan, cluster))
            break
        places.append(where)
    fewer = len(places) < plan.slots
    return dataclasses.replace(
        plan, slots=len(places), fits=len(places) if fewer else plan.fits, places=tuple(places)
    )


def _processes(spec: Work, plan: Plan) -> list[tuple[str, dict[str, float]]]:
    """List name and needs of each process of one slot, the largest first."""
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
    return [*found, (TRIAL, {"CPU": TRIAL_CPUS})]


class _Free:
    """What a node has left. A fraction of a GPU comes from one device; whole GPUs need whole devices."""

    def __init__(self, node: Node) -> None:
        self.name = node.name
        self._left = {name: amount for name, amount in node.resources.items() if name != "GPU"}
        self._devices = [1.0] * int(node.resources.get("GPU", 0) + TOLERANCE)

    def take(self, needs: Mapping[str, float]) -> bool:
        """Take everything and return True, or take nothing and return False."""
        others = {name: amount for name, amount in needs.items() if name != "GPU" and amount > 0}
        if any(self._left.get(name, 0) + TOLERANCE < amount for name, amount in others.items()):
            return False
        if not self._take_gpus(needs.get("GPU", 0.0)):
            return False
        for name, amount in others.items():
            self._left[name] -= amount
        return True

    def _take_gpus(self, gpus: float) -> bool:
        if gpus == 0:
            return True
        if gpus < 1:
            fitting = [k for k, left in enumerate(self._devices) if left + TOLERANCE >= gpus]
            if not fitting:
                return False
            self._devices[min(fitting, key=lambda k: self._devices[k])] -= gpus
            return True
        whole = [k for k, left in enumerate(self._devices) if left + TOLERANCE >= 1.0][: int(gpus)]
        for k in whole if len(whole) == int(gpus) else ():
            self._devices[k] = 0.0
        return len(whole) == int(gpus)


@dataclass(frozen=True)
class _Stuck:
    """A process that fits on no node."""

    what: str
    needs: Mapping[str, float]


def _place(processes: Sequence[tuple[str, dict[str, float]]], free: list[_Free]) -> str | _Stuck:
    """Place one slot by first fit, largest first; takes from `free`. Returns which process went where."""
    places: Counter[tuple[str, str]] = Counter()
    for what, needs in processes:
        node = next((node for node in free if node.take(needs)), None)
        if node is None:
            return _Stuck(what, needs)
        places[node.name, what] += 1
    found: dict[str, list[str]] = {}
    for (name, what), count in places.items():
        if what != TRIAL:
            found.setdefault(name, []).append(f"{count} {what}{'s' if count > 1 else ''}")
    return "; ".join(f"{name}: {', '.join(what)}" for name, what in found.items())


def _stuck(stuck: _Stuck, placed: int, plan: Plan, cluster: Cluster) -> str:
    what, needs = stuck.what, stuck.needs
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
        f"slots.count: {placed} of {plan.slots} slots fit on the cluster's nodes; the next {what} "
        f"needs a node with {wanted} free, and the nodes are {there}; lower slots.count or what the "
        f"{what} takes, or add nodes"
    )


def _amount(name: str, amount: float) -> str:
    return f"{amount / GB:.1f} GB memory" if name == "memory" else f"{amount:g} {name}"
