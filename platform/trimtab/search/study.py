"""The sweep's Optuna studies, which are its source of truth.

A sweep has one storage: a journal file in its folder, or a database given by URL. The storage holds two
studies: `<sweep>` for the candidates, `<sweep>/reference` for the reference's configurations. Because they
are separate, the results of one do not mislead the sampler or pruner of the other.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from trimtab.errors import NotFoundError, StorageError
from trimtab.sweepdir import journal
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepdir.home import command
from trimtab.sweepspec.sections import Asha, Median
from trimtab.sweepspec.space.suggest import STRATEGY, enqueued, named
from trimtab.sweepspec.spec import SweepSpec

JOURNAL = "study.journal"
QUOTAS = "quotas"
"""User attribute of the candidates' study: every trial of it names its candidate beforehand. The studies of
earlier versions lack it; there the sampler goes on choosing."""
JOB = "job"
"""User attribute of a trial: the `config` of `tune_trial`, which is all it takes to run the trial again."""


@dataclass(frozen=True)
class Studies:
    """Both studies of a sweep."""

    reference: optuna.Study
    candidates: optuna.Study


def open_storage(url: str | None, sweep_dir: Path) -> BaseStorage:
    """Open the studies' storage: the database at `url`, or a journal file in the sweep's folder.

    Raises:
        StorageError: The database does not answer, or its driver is not installed.
    """
    if url:
        try:
            # Test each pooled connection before use: the server may have closed it in the meantime.
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except (SQLAlchemyError, ImportError, optuna.exceptions.StorageInternalError) as error:
            where = make_url(url).render_as_string(hide_password=True)
            why = str(error).splitlines()[0]
            fix = "start the database, or check the address"
            if isinstance(error, ImportError):
                fix = "install trimtab[cluster], and begin the address with postgresql+psycopg://"
            raise StorageError(f"storage: {where} cannot be used: {why}; {fix}") from None
    return JournalStorage(JournalFileBackend(str(sweep_dir / JOURNAL)))


def create_studies(spec: SweepSpec, name: str, sweep_dir: Path) -> Studies:
    """Create the studies of a new sweep, and enqueue the configurations that are to run first.

    Raises:
        StorageError: The storage cannot be used, or holds a study of that name already.
    """
    _quiet()
    storage = open_storage(spec.storage, sweep_dir)
    try:
        studies = Studies(*(_created(spec, study, storage) for study in _names(name)))
    except optuna.exceptions.DuplicatedStudyError:
        raise StorageError(
            f"storage: holds a study named {name!r} already; choose another --name, or resume that sweep "
            f"where it was started: {command(f'resume {name}', SweepDir(sweep_dir).home)}"
        ) from None
    _enqueue(spec, studies)
    return studies


def _names(name: str) -> tuple[str, str]:
    """Return the names of a sweep's studies: the reference's and the candidates'."""
    return f"{name}/reference", name


def _created(spec: SweepSpec, study: str, storage: BaseStorage) -> optuna.Study:
    return optuna.create_study(study_name=study, storage=storage, direction="maximize", pruner=_pruner(spec))


def _enqueue(spec: SweepSpec, studies: Studies) -> None:
    """Enqueue what is to run first and is not enqueued yet."""
    studies.candidates.set_user_attr(QUOTAS, True)
    for study, families in ((studies.reference, (spec.reference,)), (studies.candidates, spec.candidates)):
        there = [trial.system_attrs.get("fixed_params") for trial in study.get_trials(deepcopy=False)]
        for parameters in enqueued(spec, families):
            if parameters in there:
                there.remove(parameters)
            else:
                study.enqueue_trial(parameters)


def load_studies(spec: SweepSpec, name: str, sweep_dir: Path) -> Studies:
    """Load the studies of a sweep that was started before.

    Those of a sweep whose driver ended before it had made them are made now. Call this only while no driver
    runs the sweep: a line that a killed driver left half-written is cut off.

    Raises:
        NotFoundError: The sweep has run, and the storage does not hold the studies.
        StorageError: The storage cannot be used, or its file is damaged.
    """
    _quiet()
    folder, file = SweepDir(sweep_dir), sweep_dir / JOURNAL
    if not spec.storage and not file.is_file() and folder.has_run:
        raise folder.without_studies(file)
    if not spec.storage and file.is_file():
        (sweep_dir / f"{JOURNAL}.lock").unlink(missing_ok=True)
        journal.cut_torn_tail(file)
        # Optuna replays the file, so that no line of its own may be missing.
        journal.check_lines(file, "remove what does not belong, or restore it from a backup")
    storage = open_storage(spec.storage, sweep_dir)
    studies = Studies(*(_loaded(spec, name, study, storage, folder) for study in _names(name)))
    if not folder.has_run and not any(map(_has_begun, (studies.reference, studies.candidates))):
        _enqueue(spec, studies)
    _name_the_rest(spec, studies.candidates)
    return studies


def _loaded(spec: SweepSpec, name: str, study: str, storage: BaseStorage, folder: SweepDir) -> optuna.Study:
    """Load one study, or create it where nothing has run yet."""
    try:
        return optuna.load_study(study_name=study, storage=storage, pruner=_pruner(spec))
    except KeyError:
        if folder.has_run:
            raise _no_study(name, folder.path) from None
    return _created(spec, study, storage)


def _has_begun(study: optuna.Study) -> bool:
    return any(trial.state is not TrialState.WAITING for trial in study.get_trials(deepcopy=False))


def _name_the_rest(spec: SweepSpec, study: optuna.Study) -> None:
    """Name the candidate of each trial that the spec has and the study has not: a sweep was extended.

    Each goes to the searched candidate of fewest trials so far.
    """
    if len(spec.candidates) == 1 or not study.user_attrs.get(QUOTAS):
        return
    trials = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state is TrialState.WAITING or JOB in trial.user_attrs
    ]
    have: Counter[str] = Counter(_candidate(trial) for trial in trials)
    searched = [one for one in spec.candidates if spec.space_of(one).ranges] or list(spec.candidates)
    for _ in range(spec.candidate_trials - len(trials)):
        next_one = min(searched, key=lambda one: have[spec.label_of(one)])
        have[spec.label_of(next_one)] += 1
        study.enqueue_trial(named(spec, spec.candidates, next_one, {}))


def _candidate(trial: optuna.trial.FrozenTrial) -> str:
    """Return the label of the candidate that a trial is for."""
    return str((trial.params or trial.system_attrs.get("fixed_params", {})).get(STRATEGY))


def _no_study(name: str, sweep_dir: Path) -> NotFoundError:
    file = SweepDir(sweep_dir).spec_file
    return NotFoundError(f"storage: does not hold a study named {name!r}; check `storage` in {file}")


def read_study(spec: SweepSpec, name: str, sweep_dir: Path) -> optuna.Study:
    """Load the candidates' study for reading only; nothing is repaired.

    Raises:
        NotFoundError: The storage does not hold the study.
        StorageError: The storage cannot be used.
    """
    _quiet()
    if not spec.storage and not (sweep_dir / JOURNAL).is_file():
        raise NotFoundError(f"sweep {name!r} has no study in {sweep_dir}; check its name and --home")
    try:
        return optuna.load_study(study_name=name, storage=open_storage(spec.storage, sweep_dir))
    except KeyError:
        raise _no_study(name, sweep_dir) from None


def sampler(spec: SweepSpec, number: int, *, again: bool = False) -> optuna.samplers.BaseSampler:
    """Return the sampler of trial `number` of a study.

    Each trial has its own sampler, seeded by the spec's seed and the trial's number. What it draws depends
    only on these and on the study, so a resumed sweep draws what an uninterrupted one would have drawn.
    `again`: after a draw that the study knew already, which this sampler might repeat for ever.
    """
    seed = int(np.random.SeedSequence([spec.search.seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match "random" if again else spec.search.sampler:
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=_startup(spec))
            case "qmc":
                # The study counts the points of the sequence. Another seed would start another sequence.
                return optuna.samplers.QMCSampler(
                    scramble=True, seed=spec.search.seed, warn_independent_sampling=False
                )
            case "tpe":
                # `group` models each branch of a conditional space jointly. `constant_liar` keeps parallel
                # trials from trying the same point.
                return optuna.samplers.TPESampler(
                    seed=seed,
                    multivariate=True,
                    group=True,
                    constant_liar=True,
                    n_startup_trials=_startup(spec),
                )
            case _:  # random; or grid, whose points are enqueued: further trials repeat some of them
                return optuna.samplers.RandomSampler(seed=seed)


def _startup(spec: SweepSpec) -> int:
    """Return the number of random start-up trials: 10, but at most half of the sweep and at least 2."""
    return max(2, min(10, spec.candidate_trials // 2))


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
    # The journal and the display show what a trial does; Optuna would repeat it on stderr.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
