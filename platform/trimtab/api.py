"""trimtab from Python: the same as the command line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.errors import NotFoundError, SpecError, StorageError
from trimtab.planning.machine import Machine, this_machine
from trimtab.planning.placement import plan_here, plan_on
from trimtab.planning.plan import Plan
from trimtab.sweepdir import driver
from trimtab.sweepdir.home import create_sweep_dir, existing_sweep_dir
from trimtab.sweepspec.load import dump_spec, load_spec
from trimtab.sweepspec.outside import check_outside
from trimtab.sweepspec.secrets import check_spec
from trimtab.sweepspec.spec import SweepSpec

if TYPE_CHECKING:
    from trimtab.session.sweep import SweepResult


def plan(spec: SweepSpec | str | Path, overrides: Sequence[str] = ()) -> Plan:
    """What the sweep would run on this machine; starts nothing.

    `spec`: a spec, a YAML file, or the name of a shipped space; `overrides` as `--set` takes them.
    SpecError, ModelError: the spec cannot run. PlanError: it does not fit.
    """
    return plan_here(_loaded(spec, overrides), this_machine())


def sweep(
    spec: SweepSpec | str | Path,
    *,
    name: str | None = None,
    overrides: Sequence[str] = (),
    address: str | None = None,
    capacity: Machine | None = None,
) -> SweepResult:
    """Run a sweep to its end and return how it ended; what it found is in MLflow.

    `name`: of this sweep; default is the first free one of the spec's family. Errors as in `plan`; nothing
    was started then. Ctrl-C ends everything that the sweep started; the result's status is `killed`.

    `address`: of a Ray cluster to run on (`auto`: the one of this machine or Ray job), with `home` on storage
    that all its nodes share; default: a Ray of the sweep's own. ClusterError: it cannot be joined.
    `capacity`: what an autoscaler may make of that cluster; default: the nodes it has.
    """
    loaded = _loaded(spec, overrides)
    home = loaded.home.expanduser().resolve()
    with resources(loaded, home, address, capacity) as planned:
        folder = create_sweep_dir(home, loaded.name, name)
        from trimtab.session.sweep import run_sweep

        with driver.registered(folder):
            write_spec(folder, loaded)
            try:
                return run_sweep(loaded, folder.name, home, plan=planned)
            except StorageError:
                # Nothing has begun: the name stays free.
                shutil.rmtree(folder)
                raise


@contextmanager
def resources(
    spec: SweepSpec, home: Path, address: str | None, capacity: Machine | None
) -> Iterator[Plan | None]:
    """The plan on the cluster that is joined for the block; None, if this machine's own is to be used."""
    check_spec(spec)
    if address is None:
        plan(spec)
        yield None
        return
    from trimtab.remote.clusters import joined_ray
    from trimtab.session.sweep import prepare_environment

    with joined_ray(address, home, prepare_environment(home)) as cluster:
        yield plan_on(spec, cluster, capacity)


def resume(
    name: str,
    home: str | Path = ".trimtab",
    *,
    address: str | None = None,
    capacity: Machine | None = None,
) -> SweepResult:
    """Go on with a sweep whose driver ended before it did, from its study and its checkpoints.

    Trials that ended are not touched; those under way repeat at most the steps since their last checkpoint.
    NotFoundError: no such sweep. SpecError: it is running. A finished sweep is left as it is.
    """
    return _continue(name, Path(home), 0, address, capacity)


def extend(
    name: str,
    trials: int,
    home: str | Path = ".trimtab",
    *,
    address: str | None = None,
    capacity: Machine | None = None,
) -> SweepResult:
    """Search so many further configurations (and as many of the reference, if it is searched too).

    What the sweep had not ended is ended first. Errors as in `resume`.
    """
    if trials < 1:
        raise SpecError(f"trials: {trials} adds nothing; give at least 1")
    return _continue(name, Path(home), trials, address, capacity)


def _continue(name: str, home: Path, more: int, address: str | None, capacity: Machine | None) -> SweepResult:
    home = home.expanduser().resolve()
    folder = existing_sweep_dir(home, name)
    file = folder / "spec.yaml"
    if not file.is_file():
        raise NotFoundError(f"sweep {name!r} has no spec.yaml in {folder}; it never began: start it anew")
    with driver.registered(folder):
        spec = load_spec(file, _enlarged(file, more) if more else ())
        with resources(spec, home, address, capacity) as planned:
            from trimtab.session.sweep import run_sweep

            if more:
                write_spec(folder, spec)
            return run_sweep(spec, name, home, resume=True, plan=planned)


def _enlarged(file: Path, more: int) -> list[str]:
    """Overrides that add trials to the candidates, and to a reference whose number is given."""
    spec = load_spec(file, outside=False)
    overrides = [f"search.trials={spec.search.trials + more}"]
    if spec.reference.search and spec.reference.trials is not None:
        overrides.append(f"reference.trials={spec.reference.trials + more}")
    return overrides


def write_spec(folder: Path, spec: SweepSpec) -> None:
    """Keep the spec in the sweep's folder, whole or not at all."""
    partial = folder / "spec.yaml.partial"
    partial.write_text(dump_spec(spec), encoding="utf-8")
    partial.replace(folder / "spec.yaml")


def _loaded(spec: SweepSpec | str | Path, overrides: Sequence[str]) -> SweepSpec:
    if not isinstance(spec, SweepSpec):
        return load_spec(spec, overrides)
    check_outside(spec)
    if overrides:
        raise TypeError("overrides apply to a file; use spec.model_copy(update=...) on a loaded spec")
    return spec
