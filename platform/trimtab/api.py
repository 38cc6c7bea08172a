"""trimtab from Python: the same as the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab import driver
from trimtab.home import create_sweep_dir
from trimtab.machine import this_machine
from trimtab.plan import Plan, make_plan
from trimtab.spec import SweepSpec, dump_spec, load_spec

if TYPE_CHECKING:
    from trimtab.sweep import SweepResult


def plan(spec: SweepSpec | str | Path, overrides: Sequence[str] = ()) -> Plan:
    """What the sweep would run on this machine; starts nothing.

    `spec`: a spec, a YAML file, or the name of a shipped space; `overrides` as `--set` takes them.
    SpecError, ModelError: the spec cannot run. PlanError: it does not fit.
    """
    machine = this_machine()
    return make_plan(_loaded(spec, overrides), machine.cpus, machine.gpus, machine.memory_bytes)


def sweep(
    spec: SweepSpec | str | Path,
    *,
    name: str | None = None,
    overrides: Sequence[str] = (),
) -> SweepResult:
    """Run a sweep to its end and return how it ended; what it found is in MLflow.

    `name`: of this sweep; default is the first free one of the spec's family. Errors as in `plan`; nothing
    was started then. Ctrl-C ends everything that the sweep started; the result's status is `killed`.
    """
    loaded = _loaded(spec, overrides)
    plan(loaded)
    home = loaded.home.expanduser().resolve()
    folder = create_sweep_dir(home, loaded.name, name)
    (folder / "spec.yaml").write_text(dump_spec(loaded), encoding="utf-8")
    from trimtab.sweep import run_sweep

    with driver.registered(folder):
        return run_sweep(loaded, folder.name, home)


def _loaded(spec: SweepSpec | str | Path, overrides: Sequence[str]) -> SweepSpec:
    if not isinstance(spec, SweepSpec):
        return load_spec(spec, overrides)
    if overrides:
        raise TypeError("overrides apply to a file; use spec.model_copy(update=...) on a loaded spec")
    return spec
