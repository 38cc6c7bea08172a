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
from itertools import islice
from typing import Any, Literal

import numpy as np
import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from trainables.trial import TrialConfig
from trimtab.errors import SpecError
from trimtab.search.study import JOB, Studies, sampler
from trimtab.sweepspec.space.check import grid
from trimtab.sweepspec.space.settings import settings_of, short_settings
from trimtab.sweepspec.space.suggest import named, suggest
from trimtab.sweepspec.spec import Searched, SweepSpec

SCORE = "score"
RUNG = "rung"
GRID = 4096
"""Points of a space, at most, among which a drawn one is replaced that ran before."""
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
        self._reference = _signature(spec.reference_config().model_dump(mode="json"))
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
        families: Sequence[Searched] = self._spec.candidates
        if study is self._studies.reference:
            families = (self._spec.reference,)
        again = False
        while True:
            study.sampler = sampler(self._spec, len(study.get_trials(deepcopy=False)), again=again)
            trial = study.ask()
            searched, config, parameters = suggest(self._spec, trial, families)
            raw = config.model_dump(mode="json")
            fresh = self._fresher(study, trial, searched, raw)
            if fresh is None:
                break
            again = True
            # Never handed out, so it is nobody's trial; the other point waits in its place.
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(named(self._spec, families, searched, fresh))
        role: Role = "candidate"
        if searched is self._spec.reference:
            role = "reference" if _signature(raw) == self._reference else "tuned_reference"
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

    def _fresher(
        self, study: optuna.Study, trial: optuna.Trial, searched: Searched, raw: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Return a point to run in place of one that was drawn again; None: run what was drawn.

        That is a point of the same space that ran less often; in one without end, any other, which is drawn
        at random. What the user asked for is run as it is.
        """
        runs, space = self._runs[_signature(raw)], self._spec.space_of(searched)
        label = self._spec.label_of(searched)
        asked_for = study.get_trials(deepcopy=False)[trial.number].system_attrs.get("fixed_params", {})
        if not runs or all(f"{label}.{name}" in asked_for for name in space.ranges):
            return None
        try:
            points = list(islice(grid(space), GRID))
        except SpecError:  # a range without steps: a sampler that runs into its ends draws them twice
            return {}
        queued = self._queued(study, searched)
        rng = np.random.default_rng([self._spec.search.seed, trial.number])
        for place in rng.permutation(len(points)):
            signature = _signature(self._spec.config_of(searched, points[place]).model_dump(mode="json"))
            if self._runs[signature] + queued[signature] < runs:
                return dict(points[place])
        return None

    def _queued(self, study: optuna.Study, searched: Searched) -> Counter[str]:
        """Count the configurations of a strategy that wait in the study's queue."""
        label, names = self._spec.label_of(searched), list(self._spec.space_of(searched).ranges)
        found: Counter[str] = Counter()
        for waiting in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            fixed = waiting.system_attrs.get("fixed_params", {})
            if all(f"{label}.{name}" in fixed for name in names):
                values = {name: fixed[f"{label}.{name}"] for name in names}
                found[_signature(self._spec.config_of(searched, values).model_dump(mode="json"))] += 1
        return found

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
