"""A spec as an Optuna space: strategy first, then only its own parameters; no invalid point is proposed."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from trimtab.space import STRATEGY, enqueued, suggest
from trimtab.spec import SweepSpec, parse_spec

Raw = dict[str, Any]


pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
optuna.logging.set_verbosity(optuna.logging.WARNING)


def study(seed: int = 0) -> optuna.Study:
    return optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True), direction="maximize"
    )


def test_relations_between_parameters_hold_at_every_point(spec: SweepSpec) -> None:
    searching = study()
    caps = set()
    for _ in range(40):
        trial = searching.ask()
        config, searched = suggest(spec, trial)
        assert set(searched) == {"v05.group_size", "v05.k_max", "v05.alpha"} == set(trial.params)
        assert searched["v05.group_size"] <= searched["v05.k_max"] <= 16
        assert 0.01 <= searched["v05.alpha"] <= 0.9
        settings = config.strategy.settings
        assert {f"v05.{name}": settings[name] for name in ("group_size", "k_max", "alpha")} == searched
        caps.add(searched["v05.k_max"])
        searching.tell(trial, searched["v05.alpha"])
    assert len(caps) > 3


def test_only_the_chosen_strategy_has_parameters(raw: Raw) -> None:
    raw["candidates"].append({"strategy": "rloo", "search": {"group_size": {"choice": [2, 4]}}})
    spec = parse_spec(raw)
    searching, seen = study(), set()
    for _ in range(20):
        trial = searching.ask()
        config, searched = suggest(spec, trial)
        label = searched[STRATEGY]
        seen.add(label)
        assert {name.partition(".")[0] for name in searched if name != STRATEGY} == {label}
        assert config.strategy.name == label
        searching.tell(trial, 0.0)
    assert seen == {"v05", "rloo"}


def test_axes_are_searched_by_dotted_paths(raw: Raw) -> None:
    raw["candidates"] = [
        {
            "label": "mine",
            "strategy": {
                "prior": "strata",
                "fusion": "tested",
                "budget": {"type": "sequential", "k_min": 4, "k_max": 8},
            },
            "search": {"fusion.alpha": {"float": [0.1, 0.2]}, "budget.k_max": {"int": ["budget.k_min", 16]}},
        }
    ]
    config, searched = suggest(parse_spec(raw), study().ask())
    assert set(searched) == {"mine.fusion.alpha", "mine.budget.k_max"}
    assert config.strategy.fusion.alpha == searched["mine.fusion.alpha"]
    assert config.strategy.budget.k_max == searched["mine.budget.k_max"]


def test_a_strategy_s_own_values_run_first(raw: Raw) -> None:
    """What is written beside the preset, and the preset's default (the paper's) for the rest."""
    raw["candidates"][0]["strategy"] = {"preset": "v05", "k_max": 8}
    spec, searching = parse_spec(raw), study()
    for parameters in enqueued(spec):
        searching.enqueue_trial(parameters)
    _, searched = suggest(spec, searching.ask())
    assert searched["v05.group_size"] == 4
    assert searched["v05.k_max"] == 8
    assert searched["v05.alpha"] == pytest.approx(0.317, abs=0.001)


def test_values_outside_the_ranges_are_not_enqueued(raw: Raw) -> None:
    raw["candidates"][0]["search"]["alpha"] = {"float": [0.01, 0.1]}
    assert enqueued(parse_spec(raw)) == []


def test_nothing_is_enqueued_where_it_is_switched_off(raw: Raw) -> None:
    raw["candidates"][0]["defaults_first"] = False
    assert enqueued(parse_spec(raw)) == []


def test_integer_steps_stay_on_their_grid(raw: Raw) -> None:
    raw["candidates"][0]["search"] = {"k_max": {"int": [4, 15], "step": 4}}
    spec, searching = parse_spec(raw), study()
    drawn = set()
    for _ in range(20):
        trial = searching.ask()
        drawn.add(suggest(spec, trial)[1]["v05.k_max"])
        searching.tell(trial, 0.0)
    assert drawn <= {4, 8, 12}
