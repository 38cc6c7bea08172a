"""A spec as an Optuna space: strategy first, then only its own parameters; no invalid point is proposed."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from trimtab.errors import SpecError
from trimtab.sweepspec.load import parse_spec
from trimtab.sweepspec.space.suggest import STRATEGY, enqueued, suggest
from trimtab.sweepspec.spec import SweepSpec

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
        _, config, searched = suggest(spec, trial, spec.candidates)
        assert set(searched) == {"v05.group_size", "v05.k_max", "v05.alpha"} == set(trial.params)
        assert searched["v05.group_size"] <= searched["v05.k_max"] <= 16
        assert 0.01 <= searched["v05.alpha"] <= 0.9
        settings = config.strategy.settings
        assert {f"v05.{name}": settings[name] for name in ("group_size", "k_max", "alpha")} == searched
        caps.add(searched["v05.k_max"])
        searching.tell(trial, searched["v05.alpha"])
    assert len(caps) > 3


@pytest.mark.parametrize(
    ("preset", "ranges"),
    [
        ("tether", {"decay": {"float": [0.5, 0.99]}, "window": {"int": [1, 8]}}),
        ("evpo", {"otherwise": {"choice": ["batch", "group"]}, "warmup_updates": {"int": [0, 8]}}),
        ("kae", {"bandwidth": {"float": [0.1, 4.0], "log": True}, "shape": {"choice": ["exponential"]}}),
        ("basis", {"keep": {"float": [0.9, 1.0]}, "group_size": {"choice": [1, 2]}}),
    ],
)
def test_parameters_of_the_newer_presets_may_be_searched(raw: Raw, preset: str, ranges: Raw) -> None:
    raw["candidates"] = [{"strategy": {"preset": preset}, "search": ranges}]
    spec, searching = parse_spec(raw), study()
    for _ in range(4):
        _, config, searched = suggest(spec, searching.ask(), spec.candidates)
        settings = config.strategy.settings
        assert {f"{preset}.{name}": settings[name] for name in ranges} == searched


def test_a_window_of_nothing_is_refused_when_the_space_is_read(raw: Raw) -> None:
    raw["candidates"] = [{"strategy": "tether", "search": {"window": {"int": [0, 4]}}}]
    with pytest.raises(SpecError, match=r"window: 0 must be greater than or equal to 1"):
        parse_spec(raw)


def test_only_the_chosen_strategy_has_parameters(raw: Raw) -> None:
    raw["candidates"].append({"strategy": "rloo", "search": {"group_size": {"choice": [2, 4]}}})
    spec = parse_spec(raw)
    searching, seen = study(), set()
    for _ in range(20):
        trial = searching.ask()
        _, config, searched = suggest(spec, trial, spec.candidates)
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
    spec = parse_spec(raw)
    _, config, searched = suggest(spec, study().ask(), spec.candidates)
    assert set(searched) == {"mine.fusion.alpha", "mine.budget.k_max"}
    assert config.strategy.fusion.alpha == searched["mine.fusion.alpha"]
    assert config.strategy.budget.k_max == searched["mine.budget.k_max"]


def test_a_strategy_s_own_values_run_first(raw: Raw) -> None:
    """What is written beside the preset, and the preset's default (the paper's) for the rest."""
    raw["candidates"][0]["strategy"] = {"preset": "v05", "k_max": 8}
    spec, searching = parse_spec(raw), study()
    for parameters in enqueued(spec, spec.candidates):
        searching.enqueue_trial(parameters)
    *_, searched = suggest(spec, searching.ask(), spec.candidates)
    assert searched["v05.group_size"] == 4
    assert searched["v05.k_max"] == 8
    assert searched["v05.alpha"] == pytest.approx(0.317, abs=0.001)


def test_values_outside_the_ranges_are_not_enqueued(raw: Raw) -> None:
    raw["candidates"][0]["search"]["alpha"] = {"float": [0.01, 0.1]}
    spec = parse_spec(raw)
    assert enqueued(spec, spec.candidates) == []


def test_nothing_is_enqueued_where_it_is_switched_off(raw: Raw) -> None:
    raw["candidates"][0]["defaults_first"] = False
    spec = parse_spec(raw)
    assert enqueued(spec, spec.candidates) == []


def test_integer_steps_stay_on_their_grid(raw: Raw) -> None:
    raw["candidates"][0]["search"], raw["search"]["trials"] = {"k_max": {"int": [4, 15], "step": 4}}, 3
    spec, searching = parse_spec(raw), study()
    drawn = set()
    for _ in range(20):
        trial = searching.ask()
        drawn.add(suggest(spec, trial, spec.candidates)[2]["v05.k_max"])
        searching.tell(trial, 0.0)
    assert drawn <= {4, 8, 12}


def test_known_configurations_run_after_a_strategy_s_own_values(raw: Raw) -> None:
    raw["candidates"][0]["enqueue"] = [
        {"group_size": 2, "k_max": 2, "alpha": 0.5},
        {"group_size": 8, "k_max": 16},
    ]
    spec, searching = parse_spec(raw), study()
    for parameters in enqueued(spec, spec.candidates):
        searching.enqueue_trial(parameters)
    drawn = [suggest(spec, searching.ask(), spec.candidates)[2] for _ in range(3)]
    assert [d["v05.group_size"] for d in drawn] == [4, 2, 8]
    assert drawn[1] == {"v05.group_size": 2, "v05.k_max": 2, "v05.alpha": 0.5}
    assert drawn[2]["v05.k_max"] == 16
    assert 0.01 <= drawn[2]["v05.alpha"] <= 0.9, "what a known configuration leaves out is drawn"


def test_a_grid_is_every_point_once(raw: Raw) -> None:
    raw["candidates"][0]["search"] = {
        "group_size": {"choice": [2, 4]},
        "k_max": {"int": ["group_size", 16], "step": 6},
        "alpha": {"float": [0.1, 0.3], "step": 0.1},
    }
    raw["search"] = {"trials": 18, "sampler": "grid"}
    spec, searching = parse_spec(raw), study()
    for parameters in enqueued(spec, spec.candidates):
        searching.enqueue_trial(parameters)
    points = {
        tuple(suggest(spec, searching.ask(), spec.candidates)[2].values())
        for _ in enqueued(spec, spec.candidates)
    }
    caps = {2: (2, 8, 14), 4: (4, 10, 16)}
    assert {(g, k) for g, k, _ in points} == {(g, k) for g in caps for k in caps[g]}
    assert len(points) == 18
    assert sorted({round(alpha, 6) for *_, alpha in points}) == [0.1, 0.2, 0.3]
