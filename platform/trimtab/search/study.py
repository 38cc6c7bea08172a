"""The sweep's Optuna studies, which are its source of truth.

A sweep has one storage (a journal file in its folder, or a database by URL) and in it one study named after
the sweep for the candidates and one named `<sweep>/reference` for the reference's own configurations: each
is searched with as many trials, and neither's results mislead the other's sampler or pruner.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from trimtab.errors import NotFoundError, StorageError
from trimtab.sweepdir import journal
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepdir.home import command
from trimtab.sweepspec.space import enqueued
from trimtab.sweepspec.spec import Asha, Median, SweepSpec

JOURNAL = "study.journal"


@dataclass(frozen=True)
class Studies:
    """Both studies of a sweep."""

    reference: optuna.Study
    candidates: optuna.Study


def open_storage(url: str | None, sweep_dir: Path) -> BaseStorage:
    """The studies' storage: a database by URL, else a journal file in the sweep's folder.

    StorageError: the database does not answer, or its driver is not installed.
    """
    if url:
        try:
            # A connection that the server has closed meanwhile is replaced before it is used.
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except (SQLAlchemyError, ImportError, optuna.exceptions.StorageInternalError) as error:
            where = make_url(url).render_as_string(hide_password=True)
            why = str(error).splitlines()[0]
            fix = "start it, or check the address"
            if isinstance(error, ImportError):
                fix = "install trimtab[cluster] and write postgresql+psycopg://..."
            raise StorageError(f"storage: {where} cannot be used: {why}; {fix}") from None
    return JournalStorage(JournalFileBackend(str(sweep_dir / JOURNAL)))


def create_studies(spec: SweepSpec, name: str, sweep_dir: Path) -> Studies:
    """New studies under the sweep's own name, with what is to run first in their queues.

    StorageError: it cannot be used, or holds a study of that name.
    """
    _quiet()
    storage = open_storage(spec.storage, sweep_dir)
    try:
        studies = Studies(
            *(
                optuna.create_study(
                    study_name=study, storage=storage, direction="maximize", pruner=_pruner(spec)
                )
                for study in (f"{name}/reference", name)
            )
        )
    except optuna.exceptions.DuplicatedStudyError:
        raise StorageError(
            f"storage: holds a study named {name!r} already; choose another --name, or continue that sweep "
            f"where it was started: {command(f'resume {name}', sweep_dir.parent.parent)}"
        ) from None
    for study, families in ((studies.reference, (spec.reference,)), (studies.candidates, spec.candidates)):
        for parameters in enqueued(spec, families):
            study.enqueue_trial(parameters)
    return studies


def load_studies(spec: SweepSpec, name: str, sweep_dir: Path) -> Studies:
    """The studies of a sweep that was started before. NotFoundError: the storage does not hold them.

    Call it only when nothing drives the sweep: what a killed driver left half-written is cut off.
    """
    _quiet()
    if not spec.storage:
        if not (sweep_dir / JOURNAL).is_file():
            raise SweepDir(sweep_dir).never_began("study")
        (sweep_dir / f"{JOURNAL}.lock").unlink(missing_ok=True)
        journal.cut_torn_tail(sweep_dir / JOURNAL)
    storage = open_storage(spec.storage, sweep_dir)
    try:
        return Studies(
            *(
                optuna.load_study(study_name=study, storage=storage, pruner=_pruner(spec))
                for study in (f"{name}/reference", name)
            )
        )
    except KeyError:
        raise NotFoundError(f"storage: holds no study named {name!r}; check storage in {sweep_dir}") from None


def read_study(spec: SweepSpec, name: str, sweep_dir: Path) -> optuna.Study:
    """The study of the candidates, to look at. Errors as in `load_studies`; nothing is repaired."""
    _quiet()
    if not spec.storage and not (sweep_dir / JOURNAL).is_file():
        raise NotFoundError(f"sweep {name!r} has no study in {sweep_dir}")
    try:
        return optuna.load_study(study_name=name, storage=open_storage(spec.storage, sweep_dir))
    except KeyError:
        raise NotFoundError(f"storage: holds no study named {name!r}") from None


def sampler(spec: SweepSpec, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of trial `number` of a study.

    One for each trial, seeded by the spec's seed and the number: what it draws depends on them and on the
    study alone, so that a resumed sweep goes on as an undisturbed one would have.
    """
    seed = int(np.random.SeedSequence([spec.search.seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match spec.search.sampler:
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=_startup(spec))
            case "qmc":
                # The study counts the points of the sequence; another seed would scramble it anew.
                return optuna.samplers.QMCSampler(
                    scramble=True, seed=spec.search.seed, warn_independent_sampling=False
                )
            case "tpe":
                # `group`: conditional spaces, one joint distribution per branch. `constant_liar`: parallel
                # trials do not all try the same point.
                return optuna.samplers.TPESampler(
                    seed=seed,
                    multivariate=True,
                    group=True,
                    constant_liar=True,
                    n_startup_trials=_startup(spec),
                )
            case _:  # random; a grid's points are in the queue, and what exceeds them repeats some
                return optuna.samplers.RandomSampler(seed=seed)


def _startup(spec: SweepSpec) -> int:
    """Start-up trials beyond half the sweep would leave nothing to search with."""
    return max(2, min(10, spec.search.trials // 2))


def _pruner(spec: SweepSpec) -> BasePruner:
    match spec.search.early_stopping:
        case Asha() as asha:
            return SuccessiveHalvingPruner(
                min_resource=asha.first_rung, reduction_factor=asha.reduction_factor
            )
        case Median() as median:
            return MedianPruner(n_startup_trials=median.min_trials, n_warmup_steps=median.first_rung)
        case _:
            return NopPruner()


def _quiet() -> None:
    # The journal and the display say what a trial does; Optuna would say it again on stderr.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
