"""One full-size Ray Train run of a promoted configuration, without Tune: the slots and the loop of a sweep.

Layout: `<home>/training/<name>/` holds promoted.yaml, records/, trials/ and tracking.json, as a sweep's does.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from trimtab.decide.promoted import INSIDE, Promoted, load_promoted
from trimtab.decide.registry import Moved, Registry
from trimtab.errors import NotFoundError, RegistryError, SpecError, TrackingError, TrimtabError
from trimtab.planning.plan import Plan
from trimtab.sweepdir import driver, journal
from trimtab.sweepdir.home import command, tracking_uri
from trimtab.sweepspec.spec import SweepSpec
from trimtab.tracking import names
from trimtab.tracking.catch_up import CATCH_UP_S
from trimtab.tracking.store import connect, is_permanent, transient_errors, unreachable
from trimtab.tracking.tracker import Tracker

KEY = "production"
"""The run's name in the journal."""
MODEL_URI = "models:/"


@dataclass(frozen=True)
class Trained:
    """How a training run ended."""

    name: str
    status: Literal["finished", "killed"]
    checkpoint: Path | None
    moved: Moved | None
    """The registered version; None if the run did not finish."""
    unsent: list[str]


def find_promoted(source: str, uri: str, folder: Path, overrides: tuple[str, ...] = ()) -> Promoted:
    """The promoted configuration of a file, or of `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    `folder`: where the registry's copy is put. NotFoundError: no such model, version or alias.
    TrackingError: the registry does not answer.
    """
    if not source.startswith(MODEL_URI):
        return load_promoted(Path(source), overrides)
    name, at, alias = source.removeprefix(MODEL_URI).partition("@")
    version = None
    if not at:
        name, _, version = name.partition("/")
    if not name or not (alias or version):
        raise SpecError(f"{source!r} names no version; write models:/NAME@champion or models:/NAME/3")
    try:
        client = connect(uri)
        found = (
            client.get_model_version_by_alias(name, alias) if at else client.get_model_version(name, version)
        )
        file = client.download_artifacts(found.run_id, f"model/{INSIDE}", str(folder))
    except transient_errors() as error:
        if not is_permanent(error) and not isinstance(error, FileNotFoundError):
            raise TrackingError(unreachable(uri, error)) from error
        raise NotFoundError(
            f"{source} is not in the registry at {uri}: {error}; promote it first: trimtab promote"
        ) from error
    return load_promoted(Path(file), overrides)


def train(promoted: Promoted, home: Path, plan: Plan | None = None) -> Trained:
    """Train to the end of the budget and register the result; goes on where a killed run stopped.

    A run that has finished is only registered, if it is not yet. SpecError: a run of that name has begun with
    other settings, or is being driven by another process.
    """
    home = home.expanduser().resolve()
    folder = home / "training" / promoted.name
    folder.mkdir(parents=True, exist_ok=True)
    with driver.registered(folder):
        _settle(folder, promoted, home)
        spec = promoted.as_spec(home)
        status, unsent = _run(promoted, spec, home, folder, plan)
        if status != "finished":
            return Trained(promoted.name, "killed", None, None, unsent)
        checkpoint = _checkpoint(folder, promoted)
        if unsent:
            raise RegistryError(
                f"trained, but {'; '.join(unsent)}. The weights are in {checkpoint}; the same command "
                "registers them when the store answers"
            )
        moved = _register(promoted, spec, home, folder, checkpoint)
    return Trained(promoted.name, "finished", checkpoint, moved, unsent)


def _settle(folder: Path, promoted: Promoted, home: Path) -> None:
    """Keep what is trained beside it; a run that has begun goes on with the same or not at all."""
    text = yaml.safe_dump(promoted.model_dump(mode="json"), sort_keys=False, width=100)
    file = folder / "promoted.yaml"
    if file.is_file():
        before = load_promoted(file)
        if before.config() != promoted.config() or before.production.seed != promoted.production.seed:
            raise SpecError(
                f"training {promoted.name!r} has begun with other settings ({file}); go on with those: "
                f"{command(f'train {file}', home)}, or give this one another name: in the file"
            )
    partial = file.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def _run(
    promoted: Promoted, spec: SweepSpec, home: Path, folder: Path, plan: Plan | None
) -> tuple[Literal["finished", "killed"], list[str]]:
    from trimtab.watch.progress import Progress

    journal.repair(folder)
    tracker = Tracker(folder, tracking_uri(home, spec.tracking.uri), promoted.name, spec, purpose="train")
    tracker.start()
    status: Literal["finished", "killed", "failed"] = "failed"
    try:
        if _finished(folder, promoted) is None:
            from trimtab.session.sweep import interruptible

            with ExitStack() as stack:
                progress = Progress(folder, spec, 1)
                progress.start()
                stack.callback(progress.close)
                stack.enter_context(interruptible())
                _train(promoted, spec, home, folder, plan)
        status = "finished"
    except KeyboardInterrupt:
        status = "killed"
    finally:
        if status != "finished":
            from trimtab.session.sweep import close_journal

            close_journal(folder, status)
        unsent = tracker.close(status, CATCH_UP_S if status == "finished" else 60.0)
    return status, unsent


def _train(promoted: Promoted, spec: SweepSpec, home: Path, folder: Path, plan: Plan | None) -> None:
    """Ray, one slot, one lease."""
    import ray

    from trimtab.planning.machine import this_machine
    from trimtab.planning.placement import plan_here
    from trimtab.session.guardian import guarded
    from trimtab.session.own_ray import local_ray
    from trimtab.session.sweep import make_slots, prepare_environment, resolve_model
    from trimtab.slots.broker import Broker
    from trimtab.slots.client import lease_until_done
    from trimtab.tracking.system import metered, metered_nodes

    own = plan is None
    if plan is None:
        plan = plan_here(spec, this_machine())
    prepare_environment(home)
    model = resolve_model(spec, home)
    config = promoted.config().model_dump(mode="json")
    seed = promoted.production.seed
    with guarded(), local_ray(plan) if own else nullcontext():
        broker = ray.remote(Broker).options(num_cpus=0, max_concurrency=1000).remote(str(folder))
        slots = make_slots(spec, folder, plan, model, broker)
        grace = 60.0
        try:
            slots.start()
            payload = {"config": config, "seeds": [seed], "output": str(folder / "trials" / KEY)}
            _enter(folder, "trial_started", role="production", label=promoted.name, number=0, searched={},
                   config=config, seeds=[seed])  # fmt: skip
            meters = metered(folder) if own else metered_nodes(broker)
            try:
                with meters, closing(lease_until_done(broker, KEY, payload)) as events:
                    for _ in events:
                        pass
            except TrimtabError as error:
                _enter(folder, "trial_finished", status="failed", score=None, error=str(error))
                raise
            _enter(folder, "trial_finished", status="finished", score=None, error=None)
        except KeyboardInterrupt:
            grace = 10.0
            raise
        finally:
            slots.close(grace)


def _enter(folder: Path, event: str, **fields: Any) -> None:
    journal.append(folder, {"event": event, "trial": KEY, "time": time.time(), **fields})


def _finished(folder: Path, promoted: Promoted) -> str | None:
    """Checkpoint of the finished run; None while there is something to train."""
    found = None
    for event in journal.read(folder, KEY):
        if event["event"] == "run_finished" and event["status"] == "finished":
            found = event["checkpoint"]
    return found


def _checkpoint(folder: Path, promoted: Promoted) -> Path:
    found = Path(_finished(folder, promoted) or "-")
    if not (found / "model" / "config.json").is_file():
        raise NotFoundError(
            f"training {promoted.name!r} has finished, but its checkpoint {found} is gone; remove {folder} "
            "to train anew"
        )
    return found


def _register(promoted: Promoted, spec: SweepSpec, home: Path, folder: Path, checkpoint: Path) -> Moved:
    """The trained weights as a version of the model, with the file they were trained by."""
    from trimtab.decide.compare.read import Store

    uri = tracking_uri(home, spec.tracking.uri)
    sweep_id = json.loads((folder / "tracking.json").read_text(encoding="utf-8"))["sweep_id"]
    (run,) = Store(uri, spec.tracking.experiment).search({names.SWEEP_ID: sweep_id, names.TRIAL: KEY})
    run_id = run.info.run_id

    def upload() -> str:
        client = connect(uri)
        client.log_artifacts(run_id, str(checkpoint / "model"), "model")
        client.log_text(run_id, (folder / "promoted.yaml").read_text(encoding="utf-8"), f"model/{INSIDE}")
        return f"{client.get_run(run_id).info.artifact_uri}/model"

    accuracy = run.data.metrics.get("validation/accuracy")
    tags = {
        names.PURPOSE: "train",
        "trimtab.seed": str(promoted.production.seed),
        **({"trimtab.accuracy": f"{accuracy:.6g}"} if accuracy is not None else {}),
    }
    return Registry(uri).promote(
        promoted.name, promoted.production.alias, run_id, upload, tags, write=lambda version: None
    )
