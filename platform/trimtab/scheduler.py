"""Early stopping at equal compute."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from trimtab.search import TIME
from trimtab.spec import SweepSpec


class ReferenceSafeASHA(AsyncHyperBandScheduler):
    """ASHA over the candidates. The reference is never stopped and never fills a rung: everything is compared
    with its whole curve."""

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        if not _is_reference(trial):
            super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if _is_reference(trial):
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        if not _is_reference(trial):
            super().on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        if not _is_reference(trial):
            super().on_trial_remove(tune_controller, trial)


def make_scheduler(spec: SweepSpec) -> TrialScheduler:
    """The scheduler that the spec asks for; its time is rollouts over all seeds of a trial."""
    stopping = spec.search.early_stopping
    if stopping is None:
        return FIFOScheduler()
    return ReferenceSafeASHA(
        time_attr=TIME,
        grace_period=stopping.first_rung,
        reduction_factor=stopping.reduction_factor,
        # Beyond the last possible result: a trial that reaches max_t is killed during its last report.
        max_t=2 * spec.budget * len(spec.seeds),
    )


def _is_reference(trial: Trial) -> bool:
    return bool(trial.config.get("role") == "reference")
