"""Early stopping at equal compute: the study's pruner decides, and Tune stops the trial."""

from __future__ import annotations

from collections import deque
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from trimtab.search.searcher import StudySearcher


class StudyScheduler(FIFOScheduler):
    """Stops each trial that the pruner of its study rejects.

    Tune's own ASHA keeps its rungs in the driver's memory. Optuna's pruner keeps them in the study, so a
    resumed sweep uses the same rungs.
    """

    def __init__(self, searcher: StudySearcher) -> None:
        super().__init__()
        self._searcher = searcher
        self._added: deque[Trial] = deque()

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Queue a new trial."""
        self._added.append(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the pending trial that has waited longest.

        Tune's own method scans all trials of the sweep, ended ones included, at every event.
        """
        while self._added and self._added[0].status != Trial.PENDING:
            self._added.popleft()
        return self._added[0] if self._added else None

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Report the result to the study, and stop the trial if the pruner rejects it."""
        behind = self._searcher.falls_behind(trial.trial_id, result)
        return str(TrialScheduler.STOP if behind else TrialScheduler.CONTINUE)
