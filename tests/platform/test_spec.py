"""What a user writes is refused at load with one message: field, value, fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from models import looks_like_a_model

from trainables.models.shape import read_config
from trainables.trial import TrialConfig
from trimtab.errors import ModelError, SpecError, TrimtabError
from trimtab.sweepspec.load import load_spec, parse_spec, shipped_spaces

Raw = dict[str, Any]


def put(raw: Raw, path: str, value: Any) -> Raw:
    """`raw` with the value at a dotted path."""
    here: Any = raw
    *parents, last = path.split(".")
    for part in parents:
        here = here[int(part)] if isinstance(here, list) else here.setdefault(part, {})
    here[last] = value
    return raw


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("sedes", [1], ["sedes", "[1]", "'seeds'"]),
        ("trial.learner.lrr", 1e-3, ["trial.learner.lrr", "0.001", "'lr'"]),
        ("search.sampelr", "tpe", ["search.sampelr", "'tpe'", "'sampler'"]),
        ("candidates.0.serach", {}, ["candidates.0.serach", "'search'"]),
        ("candidates.0.search.aplha", {"float": [0.1, 0.2]}, ["search.aplha", "'alpha'"]),
        ("candidates.0.search.alpha", {"flaot": [0.1, 0.2]}, ["search.alpha", "{float: [low, high]}"]),
        (
            "reference.strategy",
            {"preset": "dapo", "group_size": 1},
            ["reference.strategy.group_size", "1", "2"],
        ),
        ("reference.strategy", "dpao", ["reference.strategy", "'dpao'", "dapo"]),
        ("reference.strategy.alpha", 0.1, ["reference.strategy.alpha", "group_size"]),
        ("seeds", [], ["seeds", "at least 1"]),
        ("seeds", [1, 1], ["seeds", "[1, 1]", "distinct"]),
        ("trial.strategy", "dapo", ["trial.strategy", "reference.strategy"]),
        (
            "trial.rollouts_per_step",
            4,
            ["trial.rollouts_per_step", "4", "raise rollouts_per_step to at least 8"],
        ),
        ("trial.sampling", {"max_tokens": 64}, ["sampling.max_tokens", "64", "max_model_len"]),
        ("name", "a/b", ["name", "'a/b'", "letters"]),
        ("slots.learner_gpus", 1.5, ["slots.learner_gpus", "1.5", "whole"]),
        (
            "candidates.0.enqueue",
            [{"alhpa": 0.5}],
            ["candidates.0.enqueue.0.alhpa", "is not a searched parameter", "alpha"],
        ),
        ("candidates.0.enqueue", [{"alpha": 0.95}], ["candidates.0.enqueue.0.alpha", "0.95", "widen"]),
        ("candidates.0.enqueue", [{"k_max": 8}], ["candidates.0.enqueue.0.k_max", "'group_size'"]),
        (
            "reference.search",
            {"group_size": {"choice": [2, 4]}},
            ["reference.search.group_size", "own value 8"],
        ),
        ("reference.defaults_first", False, ["reference", "defaults_first", "remove it"]),
        ("search.sampler", "gp", ["search.sampler", "gp", "'group_size'", "use tpe"]),
        ("search.sampler", "grid", ["search.alpha", "step"]),
        ("search.early_stopping", {"type": "median", "first_rung": 0}, ["first_rung", "0"]),
        ("search.early_stopping", {"type": "asha", "first_rung": 30000}, ["first_rung", "30000", "lower it"]),
    ],
)
def test_refuses_what_cannot_run(raw: Raw, path: str, value: Any, expected: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(put(raw, path, value))
    for part in expected:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ({"preset": "v05", "group_size": 8, "k_max": 4}, ["k_max", "4", "8"]),
        ({"preset": "v05", "alpha": 0}, ["alpha", "0"]),
        ({"preset": "v05", "alpha": 1}, ["alpha", "1"]),
        ({"preset": "grpo", "group_size": 1}, ["group_size", "1", "2"]),
        ({"fusion": "group_mean", "budget": {"type": "fixed", "group_size": 1}}, ["group_size", "1", "2"]),
    ],
)
def test_refuses_a_strategy_that_cannot_run(raw: Raw, strategy: Raw, expected: list[str]) -> None:
    raw["candidates"] = [{"strategy": strategy}]
    with pytest.raises(SpecError, match=r"candidates\.0\.strategy") as caught:
        parse_spec(raw)
    for part in expected:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "range_", "expected"),
    [
        ("alpha", {"float": [0.0, 0.5]}, ["search.alpha", "alpha=0.0"]),
        ("alpha", {"float": [0.5, 1.0]}, ["search.alpha", "alpha=1.0"]),
        ("alpha", {"float": [0.5, 0.1]}, ["search.alpha", "0.5", "swap"]),
        ("alpha", {"float": [0.0, 0.5], "log": True}, ["search.alpha", "logarithm"]),
        ("k_max", {"int": [4, 16]}, ["search.k_max", "group_size=8", "k_max=4", "follow another parameter"]),
        ("k_max", {"int": ["alpha", 16]}, ["search.k_max", "'alpha'", "first"]),
        ("k_max", {"int": ["grp", 16]}, ["search.k_max", "'grp'", "not known"]),
        ("k_max", {"int": ["group_size", 4]}, ["search.k_max", "8", "4", "raise the high bound"]),
        ("group_size", {"choice": [2, 200]}, ["search.k_max", "200", "raise the high bound"]),
    ],
)
def test_checks_every_range_at_load(raw: Raw, name: str, range_: Raw, expected: list[str]) -> None:
    raw["candidates"][0]["search"][name] = range_
    with pytest.raises(SpecError, match=r"candidates\.0") as caught:
        parse_spec(raw)
    for part in expected:
        assert part in str(caught.value)


def test_an_error_of_the_strategy_itself_does_not_blame_the_search(raw: Raw) -> None:
    raw["candidates"][0]["strategy"]["group_sise"] = 4
    with pytest.raises(SpecError) as caught:
        parse_spec(raw)
    assert str(caught.value).startswith("candidates.0.strategy.group_sise")


def test_several_errors_come_in_one_message(raw: Raw) -> None:
    raw["sedes"], raw["seeds"] = [1], []
    with pytest.raises(SpecError) as caught:
        parse_spec(raw)
    assert "sedes" in str(caught.value)
    assert "seeds: []" in str(caught.value)


def test_refuses_a_model_that_is_not_there(raw: Raw, tmp_path: Path) -> None:
    for missing in (str(tmp_path / "nothing"), "nothing"):
        with pytest.raises(ModelError, match=r"trial\.model.*does not exist.*'tiny'"):
            parse_spec(put(raw, "trial.model", missing))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config\.json"):
        parse_spec(put(raw, "trial.model", str(tmp_path / "empty")))
    looks_like_a_model(tmp_path / "empty")
    assert parse_spec(put(raw, "trial.model", str(tmp_path / "empty"))).trial.model.endswith("empty")


def test_two_candidates_of_one_preset_need_labels(raw: Raw) -> None:
    raw["candidates"] = [{"strategy": "v05"}, {"strategy": {"preset": "v05", "keep": 0.5}}]
    with pytest.raises(SpecError, match="label"):
        parse_spec(raw)
    raw["candidates"][1]["label"], raw["search"]["trials"] = "slow", 2
    assert len(parse_spec(raw).candidates) == 2


def test_what_is_dumped_loads_to_the_same_spec(raw: Raw, tmp_path: Path) -> None:
    spec = parse_spec(raw)
    file = tmp_path / "again.yaml"
    file.write_text(spec.text())
    assert load_spec(file) == spec


def test_a_stored_spec_holds_of_the_trial_what_was_written(raw: Raw) -> None:
    raw["trial"] = {"steps": 7, "learner": {"lr": 1e-4}}
    assert yaml.safe_load(parse_spec(raw).text())["trial"] == raw["trial"]
    del raw["trial"]
    assert yaml.safe_load(parse_spec(raw).text())["trial"] == {}


def test_a_worker_reads_back_the_trial_that_was_stored(raw: Raw) -> None:
    config = parse_spec(raw).reference_config()
    assert TrialConfig.model_validate(json.loads(config.model_dump_json())) == config


def test_a_model_is_read_once_however_many_corners_a_space_has(
    raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks_like_a_model(tmp_path, model_type="x", n_layer=12, n_embd=64)
    raw["candidates"] = [{"strategy": "poise", "search": {"layer": {"int": [0, 11]}}}]
    reads: list[Path] = []

    def counted(file: Path) -> Raw:
        reads.append(file)
        return read_config(file)

    monkeypatch.setattr("trainables.models.shape.read_config", counted)
    spec = parse_spec(put(raw, "trial.model", str(tmp_path)))
    assert spec.config_of(spec.candidates[0], {"layer": 11})
    with pytest.raises(SpecError, match=r"candidates\.0\.strategy\.prior\.layer: 12 is beyond"):
        spec.config_of(spec.candidates[0], {"layer": 12})
    assert reads == [tmp_path / "config.json"]


def test_overrides_reach_mappings_and_list_items(tmp_path: Path, raw: Raw) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(parse_spec(raw).text())
    spec = load_spec(
        file,
        ["trial.learner.lr=2e-4", "candidates.0.search.alpha.log=false", "seeds=[5, 6, 7]", "name=other"],
    )
    assert spec.reference_config().learner.lr == 2e-4
    assert spec.candidates[0].search["alpha"].model_dump(by_alias=True)["log"] is False
    assert (spec.seeds, spec.name) == ((5, 6, 7), "other")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("nonsense", "is not an assignment"),
        ("=3", "is not an assignment"),
        ("name.x=3", "holds no keys"),
        ("candidates.7.label=x", "is not an item"),
        ("seeds=[1", "not YAML"),
        ("trial.stepz=3", "'steps'"),
        ("extends=v05_small", "extends is resolved before any --set; write it in the file"),
    ],
)
def test_refuses_an_override_that_goes_nowhere(
    tmp_path: Path, raw: Raw, override: str, expected: str
) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(parse_spec(raw).text())
    with pytest.raises(SpecError, match=expected):
        load_spec(file, [override])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [1", "not YAML"),
        ("- 1", "not a mapping"),
        ("name: a\nname: b", "occurs twice"),
        ("", "not a mapping"),
    ],
)
def test_refuses_a_file_that_is_no_spec(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(text)
    with pytest.raises(SpecError, match=expected):
        load_spec(file)


def test_an_unknown_space_lists_those_that_exist() -> None:
    with pytest.raises(SpecError, match="v05_small"):
        load_spec("quickstrat")


@pytest.mark.parametrize("name", sorted(shipped_spaces()))
def test_shipped_spaces_load(name: str) -> None:
    assert load_spec(name).name == name


def test_v05_small_is_as_long_as_it_says() -> None:
    """5 configurations beside DAPO x 3 seeds, 60 steps x 128 rollouts, at least 1,000 evaluation answers."""
    spec = load_spec("v05_small")
    config = spec.reference_config()
    assert spec.reference_label == "dapo"
    assert (spec.search.trials, spec.seeds) == (5, (0, 1, 2))
    assert (config.steps, config.rollouts_per_step, config.budget) == (60, 128, 7680)
    assert config.task.validation_prompts * config.evaluation.samples >= 1000
    assert (config.evaluation.every, config.learner.lr, config.sampling.temperature) == (10, 2e-4, 1.0)
    assert set(spec.candidates[0].search) == {"group_size", "k_max", "alpha"}


def test_errors_of_the_spec_are_trimtab_errors_of_one_kind() -> None:
    assert issubclass(SpecError, TrimtabError)
    assert issubclass(SpecError, ValueError)


def test_numbers_in_scientific_notation_are_numbers() -> None:
    assert load_spec("v05_small", ["trial.learner.lr=3e-5"]).reference_config().learner.lr == 3e-5


@pytest.mark.parametrize("override", ["slots.coutn=2", "slots.count=0", "search.sampler=tpee", "seeds=[]"])
def test_one_error_is_one_line(override: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec("v05_small", [override])
    assert "\n" not in str(caught.value)


def test_a_group_of_one_under_a_group_mean_is_refused_in_the_space() -> None:
    with pytest.raises(SpecError, match=r"^candidates\.0\.search\.group_size: .*group_size=1") as caught:
        load_spec("v05_small", ["candidates=[{strategy: grpo, search: {group_size: {choice: [1, 4]}}}]"])
    assert "Narrow the range" in str(caught.value)


@pytest.mark.parametrize("model", ["./here", "a/b/c", "gpt2"])
def test_what_is_neither_a_directory_nor_a_hub_id_is_no_model(model: str) -> None:
    with pytest.raises(ModelError, match=r"trial\.model"):
        load_spec("v05_small", [f"trial.model={model}"])


def test_a_hub_id_needs_no_network() -> None:
    assert load_spec("v05_small", ["trial.model=org/name"]).reference_config().model == "org/name"


def test_candidates_share_everything_but_the_strategy(raw: Raw) -> None:
    spec = parse_spec(raw)
    reference = spec.reference_config()
    config = spec.config_of(spec.candidates[0], {"group_size": 2})
    assert config.model_copy(update={"strategy": reference.strategy}) == reference


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("candidates.0.strategy", "no_such_package.mine:Baseline", "candidates.0.strategy"),
        ("reference.strategy", {"prior": "no_such_package:P", "fusion": "tested"}, "reference.strategy"),
        ("trial.task.name", "no_such_package:Task", "trial.task.name"),
    ],
)
def test_refuses_an_import_path_that_leads_nowhere(raw: Raw, path: str, value: Any, field: str) -> None:
    changed = put(raw, path, value)
    changed["candidates"][0]["search"] = {}
    with pytest.raises(SpecError, match=r"no_such_package.*PYTHONPATH") as caught:
        parse_spec(changed)
    assert str(caught.value).startswith(field)


@pytest.mark.parametrize("alpha", [0, 1, 2, "abs"])
def test_an_impossible_value_is_refused_although_the_search_replaces_it(alpha: Any) -> None:
    with pytest.raises(SpecError, match=r"candidates\.0\.strategy.*alpha"):
        load_spec("v05_small", [f"candidates.0.strategy.alpha={alpha}"])


@pytest.mark.parametrize("override", ["slots.memory_gb=.inf", "trial.learner.lr=.inf"])
def test_infinity_is_no_number_of_anything(override: str) -> None:
    with pytest.raises(SpecError, match=r"memory_gb|learner\.lr"):
        load_spec("v05_small", [override])
