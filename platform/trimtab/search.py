"""Tune's searcher over one named Optuna study, which is the sweep's source of truth.

Ray's own OptunaSearch tells a trial that was stopped early as COMPLETE and leaves one that reported NaN
RUNNING forever; here a stopped trial is PRUNED with its intermediate values and anything without a finite
score is FAILED.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher

from trimtab.space import enqueued, suggest
from trimtab.spec import SweepSpec

SCORE = "score"
TIME = "rollouts"


def open_storage(url: str | None, sweep_dir: Path) -> BaseStorage:
    """The study's storage: a database by URL, else a journal file in the sweep's folder."""
    if url:
        return RDBStorage(url)
    return JournalStorage(JournalFileBackend(str(sweep_dir / "study.journal")))


def create_study(spec: SweepSpec, name: str, sweep_dir: Path) -> optuna.Study:
    """A new, empty study under the sweep's own name.

    Raises optuna.exceptions.DuplicatedStudyError where the storage holds one of that name.
    """
    # The journal and the display say what a trial does; Optuna would say it again on stderr.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name=name,
        storage=open_storage(spec.storage, sweep_dir),
        sampler=_sampler(spec),
        direction="maximize",
    )


def _sampler(spec: SweepSpec) -> optuna.samplers.BaseSampler:
    if spec.search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=spec.search.seed)
    # `group`: conditional spaces, one joint distribution per branch. `constant_liar`: parallel trials do not
    # all try the same point. Start-up trials beyond half the sweep would leave nothing to search with.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=spec.search.seed,
            multivariate=True,
            group=True,
            constant_liar=True,
            n_startup_trials=max(2, min(10, spec.search.trials // 2)),
        )


class StudySearcher(Searcher):
    """Asks the study for configurations and tells it what became of them.

    The reference comes first. It is a trial of the study too (without searched parameters), so that the study
    holds everything that ran.
    """

    def __init__(self, spec: SweepSpec, study: optuna.Study) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._spec = spec
        self._study = study
        self._asked: dict[str, optuna.Trial] = {}
        self._reported: dict[str, int] = {}
        """Compute at each trial's last report; a study takes one value a step."""
        # Asked before anything is queued, or it would take the first queued configuration.
        self._reference: optuna.Trial | None = study.ask()
        for parameters in enqueued(spec):
            study.enqueue_trial(parameters)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next configuration, as `tune_trial` wants it."""
        searched: dict[str, Any] = {}
        if self._reference is not None:
            trial, self._reference, role = self._reference, None, "reference"
            config, label = self._spec.reference_config(), self._spec.reference_label
        else:
            trial, role = self._study.ask(), "candidate"
            config, searched = suggest(self._spec, trial)
            label = config.strategy.label()
        trial.set_user_attr("role", role)
        trial.set_user_attr("trial", trial_id)
        self._asked[trial_id] = trial
        return {
            "trial": config.model_dump(mode="json"),
            "seeds": list(self._spec.seeds),
            "role": role,
            "label": label,
            "number": len(self._asked) - 1,
            "searched": searched,
        }

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Keep intermediate scores by compute, for pruned trials and for plots."""
        step = int(result[TIME])
        # A seed's first evaluation adds no compute: the score after the last seed stands.
        if math.isfinite(result[SCORE]) and step > self._reported.get(trial_id, -1):
            self._reported[trial_id] = step
            self._asked[trial_id].report(result[SCORE], step=step)

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how the trial ended."""
        trial = self._asked[trial_id]
        score = math.nan if result is None else float(result.get(SCORE, math.nan))
        if error or not math.isfinite(score):
            self._study.tell(trial, state=TrialState.FAIL)
        elif result is not None and result.get("finished"):
            self._study.tell(trial, score)
        else:
            # Tune hands the result at which a scheduler stopped a trial to this method alone.
            self.on_trial_result(trial_id, result or {})
            self._study.tell(trial, state=TrialState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""
