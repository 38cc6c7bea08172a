"""Where a session runs: on a Ray of its own, or on a cluster that it joins. Either comes with its plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from trimtab.planning.machine import Machine, this_machine
from trimtab.planning.placement import plan_here, plan_on
from trimtab.planning.plan import Plan
from trimtab.remote.clusters import joined_ray
from trimtab.session.environment import prepare_environment
from trimtab.session.own_ray import local_ray
from trimtab.sweepdir.home import tracking_uri
from trimtab.sweepspec.spec import Work
from trimtab.tracking.store import check_file
from trimtab.tracking.system import metered, metered_nodes


@dataclass(frozen=True)
class OwnRay:
    """A Ray of the session's own on this machine, begun and ended with it."""

    plan: Plan

    def running(self) -> AbstractContextManager[None]:
        """Start Ray for the time of the block."""
        return local_ray(self.plan)

    def metered(self, sweep_dir: Path, broker: Any) -> AbstractContextManager[None]:
        """Sample this machine into the journal for the time of the block."""
        return metered(sweep_dir)


@dataclass(frozen=True)
class JoinedRay:
    """A Ray cluster of which this process is a driver already; it outlives the session."""

    plan: Plan

    def running(self) -> AbstractContextManager[None]:
        """Start nothing: the cluster runs."""
        return nullcontext()

    def metered(self, sweep_dir: Path, broker: Any) -> AbstractContextManager[None]:
        """Sample every node into the journal, by way of the broker, for the time of the block."""
        return metered_nodes(broker)


RayCluster: TypeAlias = OwnRay | JoinedRay


@contextmanager
def ray_for(work: Work, home: Path, address: str | None, capacity: Machine | None) -> Iterator[RayCluster]:
    """Plan the work on this machine, or join the Ray cluster at `address` for the block and plan it there.

    `capacity`: what an autoscaler may make of that cluster; default: the nodes it has.

    Raises:
        PlanError: not even one slot fits. Nothing has been started.
        ClusterError: the cluster cannot be joined.
        SpecError: its nodes do not share `home`.
        TrackingError: the tracking store is a file that is damaged or not MLflow's.
    """
    check_file(tracking_uri(home, work.tracking.uri))
    if address is None:
        yield OwnRay(plan_here(work, this_machine()))
        return
    with joined_ray(address, home, prepare_environment(home)) as cluster:
        yield JoinedRay(plan_on(work, cluster, capacity))
