"""Ray Tune's searcher over a sweep's studies.

Ray's own OptunaSearch marks a trial that was stopped early as COMPLETE, leaves a trial that reported NaN
RUNNING for ever, and cannot resume after its driver was killed. Here, a stopped trial is PRUNED with its
intermediate values, a trial without a finite score is FAIL, and unfinished trials are handed out again.
"""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from trainables.trial import TrialConfig
from trimtab.search.study import Studies, sampler
from trimtab.sweepspec.space.settings import settings_of, short_settings
from trimtab.sweepspec.space.suggest import suggest
from trimtab.sweepspec.spec import Searched, SweepSpec

SCORE = "score"
RUNG = "rung"
JOB = "job"
"""User attribute of a trial: the `config` of `tune_trial`, which is all it takes to run the trial again."""
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

Role = Literal["reference", "tuned_reference", "candidate"]


@dataclass
class _Asked:
    """A trial that was handed to Tune."""

    study: optuna.Study
    trial: optuna.Trial
    job: dict[str, Any]
    reported: int
    """Highest rung reported so far. A study takes one value per rung."""


class StudySearcher(Searcher):
    """Asks the studies for configurations, and tells them the results.

    The reference comes first, then its other configurations, then the candidates: candidates are compared
    with the reference from the start.
    """

    def __init__(self, spec: SweepSpec, studies: Studies) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._spec = spec
        self._studies = studies
        self._asked: dict[str, _Asked] = {}
        self._under_way: deque[_Asked] = deque()
        """Trials that an earlier driver started and did not end."""
        self._runs: Counter[str] = Counter()
        """Configuration -> number of trials that run it or ran it."""
        self._number = 0
        for study in (studies.reference, studies.candidates):
            for frozen in study.get_trials(states=(TrialState.RUNNING, *ENDED)):
                self._take_over(study, frozen)
        self._under_way = deque(sorted(self._under_way, key=lambda asked: int(asked.job["number"])))
        self._left = {
            "reference": spec.reference_trials - _begun(studies.reference),
            "candidates": spec.candidate_trials - _begun(studies.candidates),
        }

    @property
    def left(self) -> int:
        """Return the number of trials still to hand out, including those that an earlier driver left."""
        return len(self._under_way) + sum(max(left, 0) for left in self._left.values())

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the next `config` of `tune_trial`, or None when all trials have been handed out."""
        if self._under_way:
            asked = self._under_way.popleft()
        elif self._left["reference"] > 0:
            self._left["reference"] -= 1
            asked = self._ask(self._studies.reference)
        elif self._left["candidates"] > 0:
            self._left["candidates"] -= 1
            asked = self._ask(self._studies.candidates)
        else:
            return None
        self._asked[trial_id] = asked
        return asked.job

    def falls_behind(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Report the score at this rung, and return whether the pruner rejects the trial.

        The reference is never stopped.
        """
        asked = self._asked[trial_id]
        rung = int(result[RUNG])
        if not math.isfinite(result[SCORE]) or rung <= asked.reported:
            return False
        asked.reported = rung
        asked.trial.report(result[SCORE], step=rung)
        return asked.job["role"] != "reference" and not result.get("finished") and asked.trial.should_prune()

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how the trial ended."""
        asked = self._asked.pop(trial_id)
        score = math.nan if result is None else float(result.get(SCORE, math.nan))
        if error or not math.isfinite(score):
            asked.study.tell(asked.trial.number, state=TrialState.FAIL)
        elif result is not None and result.get("finished"):
            asked.study.tell(asked.trial.number, score)
        else:
            asked.study.tell(asked.trial.number, state=TrialState.PRUNED)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Do nothing: the scheduler has told the study (`falls_behind`)."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the studies are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the studies are the state."""

    def _ask(self, study: optuna.Study) -> _Asked:
        role: Role = "candidate"
        families: Sequence[Searched] = self._spec.candidates
        if study is self._studies.reference:
            role, families = "tuned_reference" if _begun(study) else "reference", (self._spec.reference,)
        study.sampler = sampler(self._spec, len(study.get_trials(deepcopy=False)))
        trial = study.ask()
        searched, config, parameters = suggest(self._spec, trial, families)
        raw = config.model_dump(mode="json")
        job = {
            "key": f"trial-{self._number:04d}",
            "number": self._number,
            "role": role,
            "family": self._spec.label_of(searched),
            "label": self._label(role, searched, config),
            "searched": parameters,
            "seeds": self._fresh_seeds(raw),
            "rung": self._spec.rung,
            "trial": raw,
        }
        self._number += 1
        self._runs[_signature(raw)] += 1
        trial.set_user_attr(JOB, job)
        return _Asked(study, trial, job, -1)

    def _label(self, role: Role, searched: Searched, config: TrialConfig) -> str:
        """Return a configuration's name in tables, with the settings that it does not share with all."""
        name = config.strategy.label() if role == "candidate" else self._spec.label_of(searched)
        if role == "reference":
            return name  # what everything is compared with goes by its plain name
        own = {*searched.settings, *self._spec.space_of(searched).ranges}
        values = settings_of(config.model_dump())
        return name + short_settings({key: value for key, value in values.items() if key in own})

    def _fresh_seeds(self, config: dict[str, Any]) -> list[int]:
        """Return the spec's seeds; for a configuration that ran before, the same number of unused seeds."""
        seeds = self._spec.seeds
        shift = self._runs[_signature(config)] * (max(seeds) + 1)
        return [seed + shift for seed in seeds]

    def _take_over(self, study: optuna.Study, frozen: optuna.trial.FrozenTrial) -> None:
        """Take over a trial of an earlier driver."""
        job = frozen.user_attrs.get(JOB)
        if job is None:
            # The driver was killed between asking for it and handing it out, so it never ran.
            if frozen.state is TrialState.RUNNING:
                study.tell(frozen.number, state=TrialState.FAIL)
            return
        # A sweep that an earlier version began names no family: its label begins with it.
        job = {"family": str(job["label"]).partition("(")[0], **job}
        self._number = max(self._number, int(job["number"]) + 1)
        self._runs[_signature(job["trial"])] += 1
        if frozen.state is TrialState.RUNNING:
            reported = max(frozen.intermediate_values, default=-1)
            trial = optuna.trial.Trial(study, frozen._trial_id)
            self._under_way.append(_Asked(study, trial, job, reported))


def _begun(study: optuna.Study) -> int:
    """Count the trials of a study that were handed out. A trial that was only asked for never ran."""
    began = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, *ENDED))
    return sum(JOB in trial.user_attrs for trial in began)


def _signature(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)
