"""Early stopping at equal compute: the study decides, Tune stops."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from trimtab.search import StudySearcher


class StudyScheduler(FIFOScheduler):
    """Stops what the pruner of its study says falls behind.

    Tune's own ASHA keeps its rungs in the driver's memory; Optuna's keeps them in the study, so that a
    resumed sweep goes on with the same rungs.
    """

    def __init__(self, searcher: StudySearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        behind = self._searcher.falls_behind(trial.trial_id, result)
        return str(TrialScheduler.STOP if behind else TrialScheduler.CONTINUE)
