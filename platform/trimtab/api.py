"""trimtab from Python: the same as the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.errors import SpecError, StorageError
from trimtab.planning.duration import with_duration
from trimtab.planning.machine import Machine, this_machine
from trimtab.planning.placement import plan_here
from trimtab.planning.plan import Plan
from trimtab.session.cluster import ray_for
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepdir.home import resolved
from trimtab.sweepspec.effect import check_effect
from trimtab.sweepspec.load import load_spec, parse_spec
from trimtab.sweepspec.outside import check_outside
from trimtab.sweepspec.secrets import check_spec
from trimtab.sweepspec.spec import SweepSpec

if TYPE_CHECKING:
    from trimtab.decide.promoted import Promoted
    from trimtab.decide.train import Trained
    from trimtab.session.cluster import RayCluster
    from trimtab.session.session import Lent, SessionStatus
    from trimtab.session.sweep import SweepResult


def plan(spec: SweepSpec | str | Path, overrides: Sequence[str] = ()) -> Plan:
    """Return what the sweep would run on this machine; start nothing.

    `spec`: a spec, a YAML file, or the name of a shipped space; `overrides` as `--set` takes them.

    Raises:
        SpecError, ModelError: the spec cannot run.
        PlanError: it does not fit.
        TypeError: overrides are given for a spec that is loaded already.
    """
    loaded = _loaded(spec, overrides)
    return with_duration(plan_here(loaded, this_machine()), loaded)


def sweep(
    spec: SweepSpec | str | Path,
    *,
    name: str | None = None,
    overrides: Sequence[str] = (),
    address: str | None = None,
    capacity: Machine | None = None,
    confirm: bool = False,
) -> SweepResult:
    """Run a sweep to its end and return how it ended; what it found is in MLflow.

    Ctrl-C ends everything that the sweep started; the result's status is `killed`.

    `name`: of this sweep; default: the first free one of the spec's family.
    `address`: of a Ray cluster to run on (`auto`: the one of this machine or Ray job), with `home` on storage
    that all its nodes share; default: a Ray of the sweep's own.
    `capacity`: what an autoscaler may make of that cluster; default: the nodes it has.
    `confirm`: retrain the best under fresh seeds right after a sweep that finished, on the same slots, as the
    spec's `confirm` says.

    Raises:
        SpecError, ModelError, PlanError: as in `plan`. Nothing was started.
        ClusterError: the cluster cannot be joined.
        StorageError: the studies' database cannot be used. The name stays free.
    """
    loaded = _loaded(spec, overrides)
    check_spec(loaded)
    if confirm:
        from trimtab.decide.confirm import check_confirmable

        check_confirmable(loaded)
    home = resolved(loaded.home)
    with ray_for(loaded, home, address, capacity) as cluster:
        confirmed: list[SweepResult] = []

        def then(folder: SweepDir, lent: Lent) -> SessionStatus:
            confirmed.append(_confirmed(folder, cluster, lent))
            return confirmed[0].status

        result = _begun(loaded, home, name, cluster, then=then if confirm else None)
    return _published(replace(result, confirmation=confirmed[0] if confirmed else None))


def _confirmed(searched: SweepDir, cluster: RayCluster, lent: Lent) -> SweepResult:
    """Run the confirmation of a sweep on the slots that it leaves."""
    from trimtab.decide.confirm import confirmation_spec

    spec = confirmation_spec(searched.home, searched.name).model_copy(update={"home": searched.home})
    return _begun(spec, searched.home, None, cluster, lent=lent)


def _begun(
    spec: SweepSpec,
    home: Path,
    name: str | None,
    cluster: RayCluster,
    *,
    lent: Lent | None = None,
    then: Callable[[SweepDir, Lent], SessionStatus] | None = None,
) -> SweepResult:
    """Run a new sweep in a folder of its own; without studies the folder is removed again.

    `name`: of the sweep, None for the first free one; `then`: what runs on its slots after it.
    """
    # Loading Ray and Optuna takes long: who interrupts that finds no folder that never began.
    from trimtab.session.sweep import SweepResult, run_sweep

    folder = SweepDir.create(home, spec.name, name)
    with folder.driven():
        folder.write_spec(spec)
        try:
            after = None if then is None else partial(then, folder)
            return run_sweep(spec, folder, cluster, lent=lent, then=after)
        except StorageError:
            # Raised before anything ran here, or by what came after a sweep that has ended: that one stays.
            if not any(folder.events()):
                folder.remove()
            raise
        except KeyboardInterrupt:
            # Before the session, which ends in its own way: the folder is there, and `resume` begins it.
            return SweepResult(folder.name, "killed", [], folder, spec)


def _published(result: SweepResult) -> SweepResult:
    """Put what a finished sweep found on its MLflow run; a store that is down is reported already.

    That of a confirmation goes on the search's run as well.
    """
    from trimtab.decide.compare.read import Store
    from trimtab.decide.publish.answer import publish_ended

    if result.confirmation is not None and result.confirmation.status == "finished":
        return replace(result, confirmation=_published(result.confirmation))
    if result.status != "finished" or result.unsent:
        return result
    return replace(result, unsent=publish_ended(result.folder, Store.of(result.folder, result.spec)))


def resume(
    name: str,
    home: str | Path = ".trimtab",
    *,
    address: str | None = None,
    capacity: Machine | None = None,
) -> SweepResult:
    """Resume a sweep whose driver ended before it did, from its study and its checkpoints.

    Trials that ended are not touched; those under way repeat at most the steps since their last checkpoint.
    A finished sweep is left as it is.

    Raises:
        NotFoundError: there is no such sweep, it never began, or a part of it is gone.
        SpecError: another process drives it.
    """
    return _continue(name, resolved(home), 0, address, capacity)


def extend(
    name: str,
    trials: int,
    home: str | Path = ".trimtab",
    *,
    address: str | None = None,
    capacity: Machine | None = None,
) -> SweepResult:
    """Search `trials` further configurations, and as many of the reference if it is searched too.

    Trials that the sweep had not ended are ended first.

    Raises:
        SpecError: `trials` adds nothing; the rest as in `resume`.
    """
    if trials < 1:
        raise SpecError(f"trials: {trials} adds nothing; give at least 1")
    return _continue(name, resolved(home), trials, address, capacity)


def train(
    promoted: Promoted,
    home: str | Path = ".trimtab",
    *,
    address: str | None = None,
    capacity: Machine | None = None,
) -> Trained:
    """Train a promoted configuration at full size and register the result.

    `address`, `capacity` and errors as in `sweep`; the rest as in `trimtab.decide.train.train`.
    """
    from trimtab.decide.promoted import Training
    from trimtab.decide.train import train as run

    training = Training(promoted)
    training.check()
    home = resolved(home)
    with ray_for(training, home, address, capacity) as cluster:
        return run(training, home, cluster)


def _continue(name: str, home: Path, more: int, address: str | None, capacity: Machine | None) -> SweepResult:
    folder = SweepDir.existing(home, name)
    with folder.driven():
        spec = _enlarged(folder.spec(), more) if more else folder.spec()
        folder.check_records()
        check_outside(spec)
        check_spec(spec)
        with ray_for(spec, home, address, capacity) as cluster:
            from trimtab.session.sweep import run_sweep

            if more:
                folder.write_spec(spec)
            result = run_sweep(spec, folder, cluster, resume=True)
    return _published(result)


def _enlarged(spec: SweepSpec, more: int) -> SweepSpec:
    """Return the spec with more trials of the candidates, and of a reference that is searched too."""
    raw = spec.model_dump(mode="json", by_alias=True)
    raw["search"]["trials"] = spec.candidate_trials + more
    if spec.space_of(spec.reference).ranges:
        raw["reference"]["trials"] = spec.reference_trials - spec.repeats + more
    return parse_spec(raw, outside=False)


def _loaded(spec: SweepSpec | str | Path, overrides: Sequence[str]) -> SweepSpec:
    """Return a spec whose model, data and classes are there."""
    if not isinstance(spec, SweepSpec):
        return load_spec(spec, overrides)
    if overrides:
        raise TypeError("overrides apply to a file; use spec.model_copy(update=...) on a loaded spec")
    check_outside(spec)
    check_effect(spec)
    return spec
