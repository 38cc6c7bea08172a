"""A spec as an Optuna define-by-run space: the strategy first, then only its own parameters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from trimtab.sweepspec.space.check import Space, grid

if TYPE_CHECKING:
    import optuna

    from trainables.trial import TrialConfig
    from trimtab.sweepspec.spec import Searched, SweepSpec

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
    space = spec.space_of(searched)
    values: dict[str, Any] = {}
    for name, range_ in space.ranges.items():
        values[name] = range_.suggest(trial, f"{label}.{name}", {**space.known, **values})
        parameters[f"{label}.{name}"] = values[name]
    return searched, spec.config_of(searched, values), parameters


def enqueued(spec: SweepSpec, families: Sequence[Searched]) -> list[dict[str, Any]]:
    """Return the parameters to run before searching, for `optuna.Study.enqueue_trial`.

    First each strategy's own values, where its ranges hold them, and the reference's again for each time that
    a candidate runs again; then what its `enqueue` lists; with the grid sampler, every other point as well.
    Each candidate gets the rest of its quota as points that name the strategy and nothing else, in turn with
    the other candidates.
    """
    points: list[list[dict[str, Any]]] = [first_points(spec, searched) for searched in families]
    if families[0] is spec.reference:
        points[0][1:1] = [points[0][0]] * spec.repeats
    by_name = [
        [named(spec, families, searched, point) for point in own]
        for searched, own in zip(families, points, strict=True)
    ]
    first = [own[0] for searched, own in zip(families, by_name, strict=True) if _own_first(spec, searched)]
    rest = [own[int(_own_first(spec, searched)) :] for searched, own in zip(families, by_name, strict=True)]
    if len(families) > 1:
        for place, quota in enumerate(spec.quotas):
            to_draw = quota - len(points[place])
            rest[place] += [named(spec, families, families[place], {})] * to_draw
    in_turn = [point for turn in zip_longest(*rest) for point in turn if point is not None]
    return first + in_turn


def first_points(spec: SweepSpec, searched: Searched) -> list[dict[str, Any]]:
    """Return the points of one strategy that are known before the search, each once."""
    space = spec.space_of(searched)
    own = own_values(space)
    points = [own] if searched.defaults_first and own is not None else []
    points += list(searched.enqueue)
    if spec.search.sampler == "grid":
        points += [point for point in grid(space) if point not in points]
    return points


def own_values(space: Space) -> dict[str, Any] | None:
    """Return the value, before the search, of all that is searched; None if a range does not hold one."""
    known = space.known
    for name, range_ in space.ranges.items():
        if name not in known or not range_.contains(known[name], known):
            return None
    return {name: known[name] for name in space.ranges}


def _own_first(spec: SweepSpec, searched: Searched) -> bool:
    return searched.defaults_first and own_values(spec.space_of(searched)) is not None


def _choose(
    spec: SweepSpec, trial: optuna.Trial, families: Sequence[Searched]
) -> tuple[Searched, dict[str, Any]]:
    by_label = {spec.label_of(searched): searched for searched in families}
    if len(by_label) == 1:
        return families[0], {}
    label = trial.suggest_categorical(STRATEGY, list(by_label))
    return by_label[label], {STRATEGY: label}


def named(
    spec: SweepSpec, families: Sequence[Searched], searched: Searched, values: dict[str, Any]
) -> dict[str, Any]:
    """Return a point of one strategy by the names that its parameters have in the study."""
    label = spec.label_of(searched)
    chosen = {STRATEGY: label} if len(families) > 1 else {}
    return {**chosen, **{f"{label}.{name}": value for name, value in values.items()}}
