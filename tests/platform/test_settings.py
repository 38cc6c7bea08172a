"""Settings of a trial beside the strategy's own parameters: searched, shared, fixed, refused, dealt."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest

from trainables.trial import TrialSettings
from trimtab.errors import ModelError, SpecError
from trimtab.planning.plan import make_plan
from trimtab.search.searcher import StudySearcher
from trimtab.search.study import create_studies
from trimtab.sweepspec.load import load_spec, parse_spec
from trimtab.sweepspec.space.settings import REFUSED, searchable, setting_values
from trimtab.sweepspec.spec import SweepSpec

Raw = dict[str, Any]
LR: Raw = {"float": [5e-5, 4e-4], "log": True}

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
optuna.logging.set_verbosity(optuna.logging.ERROR)


def jobs(spec: SweepSpec, folder: Path) -> list[Raw]:
    """All configurations of a sweep in order, each told a score before the next is asked for."""
    searcher = StudySearcher(spec, create_studies(spec, "s", folder))
    found: list[Raw] = []
    while (job := searcher.suggest(f"t{len(found)}")) is not None:
        end = {"score": 0.5 + 0.001 * len(found), "rung": 0.0, "finished": True}
        searcher.on_trial_complete(f"t{len(found)}", end)
        found.append(job)
    return found


def families(found: list[Raw]) -> Counter[str]:
    return Counter(job["family"] for job in found)


def test_a_candidate_searches_settings_beside_its_parameters(raw: Raw, tmp_path: Path) -> None:
    raw["candidates"][0]["search"] |= {
        "learner.lr": LR,
        "learner.mini_batches": {"int": [1, 4]},
        "loss.clip_high": {"float": ["loss.clip_low", 0.5]},
        "loss.aggregation": {"choice": ["token_mean", "sequence_mean"]},
        "sampling.temperature": {"float": [0.7, 1.2]},
    }
    raw["search"] = {"trials": 8}
    reference, *found = jobs(parse_spec(raw), tmp_path)
    assert reference["trial"]["learner"]["lr"] == 5e-5
    rates = {job["trial"]["learner"]["lr"] for job in found}
    assert len(rates) > 5
    assert all(5e-5 <= rate <= 4e-4 for rate in rates)
    for job in found:
        trial, drawn = job["trial"], job["searched"]
        assert trial["learner"]["lr"] == drawn["v05.learner.lr"]
        assert 0.2 <= trial["loss"]["clip_high"] == drawn["v05.loss.clip_high"] <= 0.5
        assert trial["learner"]["mini_batches"] == drawn["v05.learner.mini_batches"]
        assert f"lr={drawn['v05.learner.lr']:.3g}" in job["label"]
    assert found[0]["searched"]["v05.learner.lr"] == 5e-5, "its own values run first"


def test_a_shared_range_is_everybodys_and_an_own_one_wins(raw: Raw, tmp_path: Path) -> None:
    raw["shared_search"] = {"learner.lr": {"choice": [5e-5, 1e-4]}}
    raw["candidates"] = [
        {"strategy": "v05", "search": {"learner.lr": {"choice": [5e-5, 3e-4]}}},
        {"strategy": "rloo"},
    ]
    raw["search"] = {"sampler": "grid"}
    spec = parse_spec(raw)
    assert spec.notes == ("candidates.0.search.learner.lr wins over shared_search.learner.lr",)
    found = jobs(spec, tmp_path)
    rates = {(job["family"], job["trial"]["learner"]["lr"]) for job in found}
    shared = {(family, rate) for family in ("dapo", "rloo") for rate in (5e-5, 1e-4)}
    assert rates == shared | {("v05", 5e-5), ("v05", 3e-4)}
    assert len(found) == 6, "a grid without search.trials has just its points"
    assert [job["label"] for job in found[:2]] == ["dapo", "dapo lr=0.0001"]


def test_settings_of_its_own_are_fixed_for_that_configuration_alone(raw: Raw) -> None:
    raw["reference"]["settings"] = {"learner.lr": 2e-4, "loss.dual_clip": 3.0}
    spec = parse_spec(raw)
    reference, candidate = spec.configs()
    assert (reference.learner.lr, reference.loss.dual_clip) == (2e-4, 3.0)
    assert (candidate.learner.lr, candidate.loss.dual_clip) == (5e-5, None)
    assert parse_spec(load_text(spec)) == spec


def load_text(spec: SweepSpec) -> Raw:
    import yaml

    loaded: Raw = yaml.safe_load(spec.text())
    return loaded


def test_every_candidate_gets_its_number_and_the_reference_as_many_as_the_best_supplied(
    raw: Raw, tmp_path: Path
) -> None:
    raw["shared_search"] = {"learner.lr": LR}
    raw["candidates"] = [
        {"strategy": "v05", "search": {"alpha": {"float": [0.05, 0.5]}}, "trials": 4},
        {"strategy": "rloo"},
        {"strategy": "grpo"},
    ]
    raw["search"] = {"trials_each": 2}
    spec = parse_spec(raw)
    assert (spec.candidate_trials, spec.reference_trials) == (8, 4)
    found = jobs(spec, tmp_path)
    assert families(found) == {"dapo": 4, "v05": 4, "rloo": 2, "grpo": 2}
    assert [job["family"] for job in found[4:7]] == ["v05", "rloo", "grpo"], "own values first, in turn"
    rates = [job["trial"]["learner"]["lr"] for job in found]
    assert len(set(rates)) == 1 + 8, "one own value for all, and each further one drawn"


def test_what_is_nobodys_is_shared_evenly(raw: Raw, tmp_path: Path) -> None:
    raw["candidates"] = [
        {"strategy": "v05", "search": {"learner.lr": LR}, "trials": 3},
        {"strategy": "rloo", "search": {"learner.lr": LR}},
        {"strategy": "grpo", "search": {"learner.lr": LR, "loss.clip_high": {"float": [0.2, 0.4]}}},
        {"strategy": "spo"},
    ]
    raw["search"] = {"trials": 11}
    found = families(jobs(parse_spec(raw), tmp_path))
    assert found == {"dapo": 1, "v05": 3, "rloo": 4, "grpo": 3, "spo": 1}


def test_trials_that_nobody_can_use_are_refused_and_shown(raw: Raw) -> None:
    raw["candidates"] = [
        {"strategy": "grpo", "search": {"group_size": {"choice": [4, 8, 16]}}},
        {"strategy": "rloo"},
    ]
    raw["search"] = {"trials": 12}
    with pytest.raises(SpecError, match=r"search\.trials: 12, of which only 4 .*\(grpo 3, rloo 1\).* to 4"):
        parse_spec(raw)
    assert parse_spec(raw, outside=False), "a sweep that has run can still be read"
    raw["search"] = {"trials_each": 12}
    spec = parse_spec(raw)
    assert spec.shares == {"dapo": 1, "grpo": 3, "rloo": 1}
    assert any("trials_each: 12, but candidates.0 gets 3" in note for note in spec.notes)
    raw["candidates"][1]["trials"] = 2
    spec = parse_spec(raw)
    assert spec.shares == {"dapo": 2, "grpo": 3, "rloo": 2}, "the reference runs again as well"
    planned = make_plan(spec, 2.0, 0, 16_000_000_000)
    assert (planned.shares, planned.trials) == (spec.shares, 7)
    assert any(
        "candidates.1.trials: 2, but its space has 1 configuration" in line for line in planned.warnings
    )


def test_a_candidate_without_a_search_runs_once_beside_searched_ones(raw: Raw, tmp_path: Path) -> None:
    raw["candidates"] = [{"strategy": "v05", "search": {"learner.lr": LR}}, {"strategy": "rloo"}]
    raw["search"] = {"trials_each": 3}
    assert families(jobs(parse_spec(raw), tmp_path)) == {"dapo": 1, "v05": 3, "rloo": 1}


def test_every_setting_is_searchable_or_refused_with_a_reason(raw: Raw) -> None:
    """No setting is forgotten: each is either tried here, or says why not."""
    values = setting_values(TrialSettings())
    assert set(values) == set(searchable())
    assert all(value is None or isinstance(value, bool | int | float | str) for value in values.values())
    for name, reason in REFUSED.items():
        raw["candidates"][0]["search"] = {name: {"choice": [1]}}
        with pytest.raises(SpecError) as caught:
            parse_spec(raw)
        message = str(caught.value)
        assert message.startswith(f"candidates.0.search.{name}: is not searched: {reason}"), message
        assert "set it once under trial" in message


@pytest.mark.parametrize(
    ("place", "name", "message"),
    [
        ("candidate", "learner.lrr", r"lrr: trial has no such setting; did you mean 'learner\.lr'\?"),
        ("candidate", "lr", r"preset 'v05' has no such parameter; did you mean 'learner\.lr'\?"),
        ("candidate", "engine.count", r"is not searched: it belongs to the slot"),
        ("candidate", "task.train_prompts", r"is not searched: all configurations train on the same data"),
        ("reference", "steps", r"reference\.search\.steps: is not searched: it changes the compute"),
        ("shared", "group_size", r"shared_search\.group_size: is not a setting of a trial"),
        ("shared", "lr", r"shared_search\.lr: is not a setting of a trial; did you mean 'learner\.lr'\?"),
        ("shared", "evaluation.samples", r"shared_search\.evaluation\.samples: is not searched"),
        ("settings", "model", r"candidates\.0\.settings\.model: is not searched: all configurations"),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_searched(raw: Raw, place: str, name: str, message: str) -> None:
    range_ = {"choice": [1, 2]}
    match place:
        case "candidate":
            raw["candidates"][0]["search"] = {name: range_}
        case "reference":
            raw["reference"]["search"] = {name: range_}
        case "shared":
            raw["shared_search"] = {name: range_}
        case _:
            raw["candidates"][0]["settings"] = {name: "tiny"}
    with pytest.raises(SpecError, match=message):
        parse_spec(raw)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"search": {"learner.lr": {"float": [-1.0, 1e-3]}}},
            r"the space holds learner\.lr=-1\.0, which cannot run: trial\.learner\.lr: -1\.0 must be greater",
        ),
        (
            {"search": {"loss.dual_clip": {"float": [0.5, 3.0]}}},
            r"search\.loss\.dual_clip: .*must be above 1",
        ),
        ({"settings": {"learner.lr": 0}}, r"trial\.learner\.lr: 0 must be greater than 0"),
        ({"search": {"learner.mini_batches": {"float": [1.0, 4.0]}}}, r"whole number"),
        ({"enqueue": [{"learner.lr": 1e-4}]}, r"enqueue\.0\.learner\.lr: is not a searched parameter"),
        (
            {
                "search": {"learner.lr": {"choice": [5e-5, 2e-4]}},
                "enqueue": [{"learner.lr": 2e-4}],
                "trials": 1,
            },
            r"candidates\.0\.trials: 1 is less than the 2 configurations .*raise it to 2",
        ),
    ],
)
def test_a_range_whose_ends_cannot_run(raw: Raw, changed: Raw, message: str) -> None:
    raw["candidates"][0] = {"strategy": "v05", **changed}
    with pytest.raises(SpecError, match=message):
        parse_spec(raw)


def test_numbers_of_trials_that_do_not_fit(raw: Raw) -> None:
    raw["candidates"] = [
        {"strategy": "v05", "search": {"learner.lr": LR}, "trials": 4},
        {"strategy": "rloo", "search": {"learner.lr": LR}},
    ]
    raw["search"] = {"trials": 4}
    with pytest.raises(SpecError, match=r"search\.trials: 4 is less than the 5 configurations .*to 5"):
        parse_spec(raw)


def test_a_reference_whose_own_rate_lies_outside_the_shared_range(raw: Raw) -> None:
    raw["shared_search"] = {"learner.lr": {"choice": [1e-4, 2e-4]}}
    with pytest.raises(SpecError, match=r"does not hold the reference's own value 5e-05; .*settings"):
        parse_spec(raw)


def test_the_plan_says_which_range_wins(raw: Raw, tmp_path: Path) -> None:
    import yaml
    from click.testing import CliRunner

    from trimtab.cli.main import main

    raw["shared_search"] = {"learner.lr": LR}
    raw["candidates"][0]["search"]["learner.lr"] = {"choice": [5e-5, 1e-4]}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(raw))
    done = CliRunner().invoke(main, ["plan", str(file)])
    assert done.exit_code == 0, done.output
    assert "wins over" in done.output
    assert load_spec(file).shared_search


@pytest.mark.parametrize("how", ["settings", "search", "shared"])
def test_a_reference_that_only_one_configuration_reads_is_checked_and_planned(
    raw: Raw, tmp_path: Path, how: str
) -> None:
    """Whether the coefficient is a configuration's own or drawn: not in the middle of the sweep."""
    weight = {"loss.kl.coefficient": {"float": [0.0, 0.1]}}
    match how:
        case "settings":
            raw["candidates"][0]["settings"] = {"loss.kl.coefficient": 0.1}
        case "search":
            raw["candidates"][0]["search"] = weight
        case _:
            raw["shared_search"] = weight
    planned = make_plan(parse_spec(raw), 2.0, 0, 16_000_000_000)
    assert planned.reference_model == "tiny"
    raw["trial"]["loss"] = {"kl": {"reference": str(tmp_path / "nowhere")}}
    with pytest.raises(ModelError, match=r"trial\.loss\.kl\.reference: .*nowhere' is neither a directory"):
        parse_spec(raw)


def test_a_reference_that_nothing_reads_is_not_looked_for(raw: Raw) -> None:
    raw["trial"]["loss"] = {"kl": {"reference": "/nowhere"}}
    assert make_plan(parse_spec(raw), 2.0, 0, 16_000_000_000).reference_model is None
