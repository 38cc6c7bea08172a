"""Run a sweep: its studies searched by Tune, inside a session.

Imports Ray, Tune and Optuna: the CLI loads this module only when a sweep runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.tune import PlacementGroupFactory

from trimtab.planning.placement import MARK
from trimtab.search.control import run_trials
from trimtab.search.searcher import StudySearcher
from trimtab.search.study import create_studies, load_studies
from trimtab.session.cluster import RayCluster
from trimtab.session.session import Lent, Session, SessionStatus, Then
from trimtab.sweepdir import journal
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepspec.spec import SweepSpec

if TYPE_CHECKING:
    from trimtab.slots.host import Slots


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended. What it found is in MLflow."""

    name: str
    status: SessionStatus
    unsent: list[str]
    """Runs whose results could not be sent to MLflow in time; they are still in the sweep's journal."""
    folder: SweepDir
    spec: SweepSpec
    confirmation: SweepResult | None = None
    """How the confirmation ended that was run right after it."""


def run_sweep(
    spec: SweepSpec,
    folder: SweepDir,
    cluster: RayCluster,
    *,
    resume: bool = False,
    lent: Lent | None = None,
    then: Then | None = None,
) -> SweepResult:
    """Run every configuration of a spec in a folder that exists and that this process drives.

    With `resume` the studies there are continued: what has ended stays, what was under way resumes from its
    checkpoints, and the rest is searched as if nothing had happened. How the sweep ends, and `then`:
    `Session.run`. `lent`: slots that another sweep has started.

    Raises:
        StorageError: the studies cannot be made. Nothing was started.
        NotFoundError: there are none to resume.
    """
    if resume:
        journal.repair(folder.path)
    studies = (load_studies if resume else create_studies)(spec, folder.name, folder.path)
    searcher = StudySearcher(spec, studies)
    trials = searcher.left

    def search(broker: Any, slots: Slots) -> bool:
        failed = run_trials(
            searcher, broker, folder.path, cluster.plan.slots, _beside_driver(), shared=_shares(spec)
        )
        # Slots that all died leave the rest of the sweep undone, whatever had finished before.
        return failed < trials and not (failed and slots.failed)

    ended = Session(folder, spec, cluster, lent=lent).run(search if trials else None, then)
    return SweepResult(folder.name, ended.status, ended.unsent, folder, spec)


def _shares(spec: SweepSpec) -> bool:
    """Return whether slots that would idle run seeds of another slot's trial.

    Not where a trial may be stopped: its verdict has not seen what runs ahead. Nor where each lease starts
    its own processes.
    """
    return spec.search.early_stopping is None and spec.slots.reuse == "warm"


def _beside_driver() -> PlacementGroupFactory:
    """Return the place of trials: the driver's node.

    A cluster's head often offers no CPU, but always its address, which other nodes may share (several on one
    machine): the node's id says which is meant.
    """
    here = {f"node:{ray.util.get_node_ip_address()}": MARK}
    node_id = ray.get_runtime_context().get_node_id()
    return PlacementGroupFactory([here], bundle_label_selector=[{"ray.io/node-id": node_id}])
