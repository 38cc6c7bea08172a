"""One full-size run of a promoted configuration, without Tune: a single lease in a session.

Layout: `<home>/training/<name>/` is laid out as a sweep's folder, with promoted.yaml in place of spec.yaml.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trimtab.decide.promoted import INSIDE, Promoted, Training, load_promoted
from trimtab.decide.registry import Moved, Registry
from trimtab.errors import NotFoundError, RegistryError, SpecError, TrackingError, TrimtabError
from trimtab.sweepdir import journal
from trimtab.sweepdir.atomic import write_whole
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepdir.home import command, tracking_uri
from trimtab.tracking import names
from trimtab.tracking.catch_up import CATCH_UP_S
from trimtab.tracking.store import connect, is_permanent, transient_errors, unreachable
from trimtab.tracking.tracker import Tracker

if TYPE_CHECKING:
    from trimtab.session.cluster import RayCluster
    from trimtab.session.session import Ended
    from trimtab.slots.host import Slots

PROMOTED = "promoted.yaml"
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
    """Read the promoted configuration of a file, of `models:/NAME@ALIAS` or of `models:/NAME/VERSION`.

    `folder`: where the registry's copy is put.

    Raises:
        SpecError: `source` names no version, or the file is not a promoted configuration.
        NotFoundError: there is no such model, version or alias.
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


def train(training: Training, home: Path, cluster: RayCluster) -> Trained:
    """Train to the end of the budget and register the result; resume a run that was stopped or killed.

    A run that has finished is registered, unless it is already.

    Raises:
        SpecError: a run of that name has begun with other settings, or another process drives it.
        TrialFailed: the training failed.
        NotFoundError: it has finished, and its checkpoint is gone.
        RegistryError: it is trained, but the tracking store or the registry refused the result.
    """
    promoted = training.promoted
    folder = SweepDir.training(home, promoted.name)
    with folder.driven():
        _settle(folder, promoted)
        ended = _run(folder, training, cluster)
        if ended.status != "finished":
            return Trained(promoted.name, "killed", None, None, ended.unsent)
        checkpoint = _checkpoint(folder)
        if ended.unsent:
            raise RegistryError(
                f"trained, but {'; '.join(ended.unsent)}. The weights are in {checkpoint}; the same command "
                "registers them when the store answers"
            )
        moved = _register(folder, promoted, checkpoint)
    return Trained(promoted.name, "finished", checkpoint, moved, ended.unsent)


def _settle(folder: SweepDir, promoted: Promoted) -> None:
    """Keep what is trained beside it; a run that has begun resumes with the same settings or not at all."""
    file = folder.path / PROMOTED
    if file.is_file():
        before = load_promoted(file)
        if before.config() != promoted.config() or before.production.seed != promoted.production.seed:
            raise SpecError(
                f"training {promoted.name!r} has begun with other settings ({file}); resume it with those: "
                f"{command(f'train {file}', folder.home)}, or give this one another name: in the file"
            )
    write_whole(file, promoted.text())


def _run(folder: SweepDir, training: Training, cluster: RayCluster) -> Ended:
    """Train, unless that is done: then the tracking store only gets what it lacks."""
    from trimtab.session.session import Ended, Session

    journal.repair(folder.path)
    if _finished(folder) is None:
        return Session(folder, training, cluster, track_s=CATCH_UP_S).run(partial(_lease, folder, training))
    uri = tracking_uri(folder.home, training.tracking.uri)
    tracker = Tracker(folder.path, uri, folder.name, training)
    tracker.start()
    return Ended("finished", tracker.close("finished", CATCH_UP_S))


def _lease(folder: SweepDir, training: Training, broker: Any, slots: Slots) -> bool:
    """Serve the one run, over as many leases as it takes."""
    from trimtab.slots.client import lease_until_done

    config = training.reference_config().model_dump(mode="json")
    seeds = list(training.seeds)
    _enter(folder, "trial_started", role="production", label=training.name, number=0, searched={},
           config=config, seeds=seeds)  # fmt: skip
    payload = {"config": config, "seeds": seeds, "output": str(folder.path / "trials" / KEY)}
    try:
        with closing(lease_until_done(broker, KEY, payload)) as events:
            for _ in events:
                pass
    except TrimtabError as error:
        _enter(folder, "trial_finished", status="failed", score=None, error=str(error))
        raise
    _enter(folder, "trial_finished", status="finished", score=None, error=None)
    return True


def _enter(folder: SweepDir, event: str, **fields: Any) -> None:
    journal.append(folder.path, {"event": event, "trial": KEY, "time": time.time(), **fields})


def _finished(folder: SweepDir) -> str | None:
    """Return the checkpoint of the finished run; None while there is something to train."""
    found = None
    for event in journal.read(folder.path, KEY):
        if event["event"] == "run_finished" and event["status"] == "finished":
            found = event["checkpoint"]
    return found


def _checkpoint(folder: SweepDir) -> Path:
    found = Path(_finished(folder) or "-")
    if not (found / "model" / "config.json").is_file():
        raise NotFoundError(
            f"training {folder.name!r} has finished, but its checkpoint {found} is gone; remove "
            f"{folder.path} to train anew"
        )
    return found


def _register(folder: SweepDir, promoted: Promoted, checkpoint: Path) -> Moved:
    """Make the trained weights, with the file they were trained by, a version of the model."""
    from trimtab.decide.compare.read import Store

    uri = tracking_uri(folder.home, promoted.tracking.uri)
    wanted = {names.SWEEP_ID: folder.claim_id(), names.TRIAL: KEY}
    (run,) = Store(uri, promoted.tracking.experiment).search(wanted)
    run_id = run.info.run_id

    def upload() -> str:
        client = connect(uri)
        client.log_artifacts(run_id, str(checkpoint / "model"), "model")
        client.log_text(run_id, (folder.path / PROMOTED).read_text(encoding="utf-8"), f"model/{INSIDE}")
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
