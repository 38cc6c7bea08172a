"""A spec as an Optuna define-by-run space: the strategy first, then only its own parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trimtab.spec import Candidate, SweepSpec, candidate_label, known_values

if TYPE_CHECKING:
    import optuna

    from trainables.config import TrialConfig

STRATEGY = "strategy"
"""Name of the categorical parameter that chooses the candidate."""


def suggest(spec: SweepSpec, trial: optuna.Trial) -> tuple[TrialConfig, dict[str, Any]]:
    """One configuration, and the searched parameters that made it under their names in the study.

    With several candidates the parameter `strategy` comes first; the parameters of the chosen one follow as
    `<label>.<parameter>`. A bound that names another parameter takes the value drawn for it.
    """
    candidate, searched = _choose(spec, trial)
    label = candidate_label(candidate)
    known = known_values(candidate)
    values: dict[str, Any] = {}
    for name, range_ in candidate.search.items():
        values[name] = range_.suggest(trial, f"{label}.{name}", {**known, **values})
        searched[f"{label}.{name}"] = values[name]
    return spec.candidate_config(candidate, values), searched


def enqueued(spec: SweepSpec) -> list[dict[str, Any]]:
    """Parameters to run before searching: each candidate's own defaults, where its ranges hold them.

    For `optuna.Study.enqueue_trial`, in the order of the candidates.
    """
    first: list[dict[str, Any]] = []
    for candidate in spec.candidates:
        defaults = _defaults(candidate)
        if candidate.defaults_first and defaults is not None:
            label = candidate_label(candidate)
            chosen = {STRATEGY: label} if len(spec.candidates) > 1 else {}
            first.append({**chosen, **{f"{label}.{name}": value for name, value in defaults.items()}})
    return first


def _choose(spec: SweepSpec, trial: optuna.Trial) -> tuple[Candidate, dict[str, Any]]:
    by_label = {candidate_label(candidate): candidate for candidate in spec.candidates}
    if len(by_label) == 1:
        return spec.candidates[0], {}
    label = trial.suggest_categorical(STRATEGY, list(by_label))
    return by_label[label], {STRATEGY: label}


def _defaults(candidate: Candidate) -> dict[str, Any] | None:
    """The candidate's own value of each searched parameter; None if a range does not hold one."""
    known = known_values(candidate)
    for name, range_ in candidate.search.items():
        if name not in known or not range_.contains(known[name], known):
            return None
    return {name: known[name] for name in candidate.search}
