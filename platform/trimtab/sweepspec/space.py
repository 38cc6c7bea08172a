"""A spec as an Optuna define-by-run space: the strategy first, then only its own parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trimtab.sweepspec.check import grid, known_values
from trimtab.sweepspec.spec import Searched, SweepSpec

if TYPE_CHECKING:
    import optuna

    from trainables.trial import TrialConfig

STRATEGY = "strategy"
"""Name of the categorical parameter that chooses the candidate."""


def suggest(
    spec: SweepSpec, trial: optuna.Trial, families: Sequence[Searched]
) -> tuple[Searched, TrialConfig, dict[str, Any]]:
    """Draw one configuration: its family, the resolved trial, and its parameters by their names in the study.

    With several candidates the parameter `strategy` comes first; the parameters of the chosen one follow as
    `<label>.<parameter>`. A bound that names another parameter takes the value drawn for it.
    """
    searched, parameters = _choose(spec, trial, families)
    label = spec.label_of(searched)
    known = known_values(searched)
    values: dict[str, Any] = {}
    for name, range_ in searched.search.items():
        values[name] = range_.suggest(trial, f"{label}.{name}", {**known, **values})
        parameters[f"{label}.{name}"] = values[name]
    return searched, spec.config_of(searched, values), parameters


def enqueued(spec: SweepSpec, families: Sequence[Searched]) -> list[dict[str, Any]]:
    """Return the parameters to run before searching, for `optuna.Study.enqueue_trial`.

    First each strategy's own values, where its ranges hold them; then what its `enqueue` lists; with the grid
    sampler, every other point as well.
    """
    points: list[dict[str, Any]] = []
    for searched in families:
        own = own_values(searched)
        if searched.defaults_first and own is not None:
            points.append(_named(spec, families, searched, own))
    for searched in families:
        points += [_named(spec, families, searched, point) for point in searched.enqueue]
    if spec.search.sampler == "grid":
        whole = [_named(spec, families, searched, point) for searched in families for point in grid(searched)]
        points += [point for point in whole if point not in points]
    return points


def own_values(searched: Searched) -> dict[str, Any] | None:
    """Return the strategy's own value of each searched parameter; None if a range does not hold one."""
    known = known_values(searched)
    for name, range_ in searched.search.items():
        if name not in known or not range_.contains(known[name], known):
            return None
    return {name: known[name] for name in searched.search}


def _choose(
    spec: SweepSpec, trial: optuna.Trial, families: Sequence[Searched]
) -> tuple[Searched, dict[str, Any]]:
    by_label = {spec.label_of(searched): searched for searched in families}
    if len(by_label) == 1:
        return families[0], {}
    label = trial.suggest_categorical(STRATEGY, list(by_label))
    return by_label[label], {STRATEGY: label}


def _named(
    spec: SweepSpec, families: Sequence[Searched], searched: Searched, values: dict[str, Any]
) -> dict[str, Any]:
    label = spec.label_of(searched)
    chosen = {STRATEGY: label} if len(families) > 1 else {}
    return {**chosen, **{f"{label}.{name}": value for name, value in values.items()}}
