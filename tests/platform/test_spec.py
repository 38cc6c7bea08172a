"""What a user writes: what is accepted, and what the message says when it is not."""

from pathlib import Path

import optuna
import pytest
import yaml

from trimtab.errors import ModelError, SpecError, TrimtabError
from trimtab.space import enqueued, suggest
from trimtab.spec import SweepSpec, dump_spec, load_spec, parse_spec, shipped_spaces
from trimtab.template import write_template

optuna.logging.set_verbosity(optuna.logging.ERROR)
SEARCH = "candidates.0.search"


def refused(*overrides: str, error: type[TrimtabError] = SpecError) -> str:
    with pytest.raises(error) as caught:
        load_spec("quickstart", overrides)
    return str(caught.value)


def test_the_quickstart_is_the_main_job() -> None:
    spec = load_spec("quickstart")
    config = spec.reference_config()
    assert 1 + spec.search.trials >= 5
    assert len(spec.seeds) == 3
    assert config.steps >= 60
    assert config.rollouts_per_step == 128
    assert config.task.validation_prompts * config.evaluation.samples >= 1000
    assert spec.reference_label == "dapo"


@pytest.mark.parametrize("name", sorted(shipped_spaces()))
def test_every_shipped_space_loads(name: str) -> None:
    assert isinstance(load_spec(name), SweepSpec)


def test_a_spec_survives_being_written_and_read(tmp_path: Path) -> None:
    spec = load_spec("quickstart")
    file = tmp_path / "spec.yaml"
    file.write_text(dump_spec(spec))
    assert load_spec(file) == spec


def test_the_template_runs_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "my_sweep.yaml"
    write_template(file)
    assert load_spec(file).name == "my_sweep"
    with pytest.raises(SpecError, match="exists already"):
        write_template(file)


def test_numbers_in_scientific_notation_are_numbers() -> None:
    assert load_spec("quickstart", ["trial.learner.lr=3e-5"]).reference_config().learner.lr == 3e-5


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("trial.learner.lrr=1", ["trial.learner.lrr", "unknown key", "1", "did you mean 'lr'"]),
        ("slots.coutn=2", ["slots.coutn", "did you mean 'count'"]),
        (f"{SEARCH}.alpha={{float: [0.1, 0.5], lgo: true}}", [f"{SEARCH}.alpha.lgo", "did you mean 'log'"]),
        (f"{SEARCH}.alhpa={{float: [0.1, 0.5]}}", [f"{SEARCH}.alhpa", "did you mean 'alpha'"]),
        ("trial.loss.clip_low=abc", ["trial.loss.clip_low", "'abc'", "number"]),
        ("search.trials=0", ["search.trials", "0", "greater than or equal to 1"]),
        ("search.sampler=tpee", ["search.sampler", "'tpee'", "'tpe'"]),
        ("slots.count=0", ["slots.count", "0", "'auto'"]),
        ("seeds=[1, 1]", ["seeds", "[1, 1]", "distinct"]),
        ("seeds=[]", ["seeds", "at least 1"]),
        ("name=a b", ["name", "'a b'"]),
        ("reference.strategy.group_size=1", ["reference.strategy.group_size", "1", "2"]),
        ("reference.strategy.preset=dapoo", ["reference.strategy.preset", "'dapoo'", "dapo"]),
        ("trial.rollouts_per_step=4", ["trial.rollouts_per_step", "4", "8"]),
        ("trial.strategy=v05", ["trial.strategy", "reference.strategy"]),
    ],
)
def test_bad_values_are_named_with_field_value_and_fix(override: str, parts: list[str]) -> None:
    message = refused(override)
    for part in parts:
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        (f"{SEARCH}.alpha={{float: [0, 0.9]}}", f"{SEARCH}.alpha", "alpha=0.0"),
        (f"{SEARCH}.alpha={{float: [0.1, 1]}}", f"{SEARCH}.alpha", "alpha=1.0"),
        (f"{SEARCH}.k_max={{int: [1, 16]}}", f"{SEARCH}.k_max", "k_max=1"),
        (f"{SEARCH}.group_size={{choice: [4, 256]}}", f"{SEARCH}.k_max", "256"),
    ],
)
def test_extremes_that_no_trial_accepts_are_refused_at_load(override: str, field: str, value: str) -> None:
    message = refused(override)
    assert message.startswith(field)
    assert value in message


def test_a_group_of_one_under_a_group_mean_is_refused_in_the_space() -> None:
    message = refused("candidates=[{strategy: grpo, search: {group_size: {choice: [1, 4]}}}]")
    assert message.startswith("candidates.0.search.group_size")
    assert "group_size=1" in message


def test_log_needs_positive_bounds_and_bounds_need_order() -> None:
    assert "no logarithm" in refused(f"{SEARCH}.alpha.float=[0, 0.9]")
    assert "swap" in refused(f"{SEARCH}.alpha.float=[0.9, 0.1]")


@pytest.mark.parametrize(
    ("bounds", "part"),
    [
        ("[group_sie, 16]", "not known"),
        ("[alpha, 16]", "list 'alpha' first"),
        ("[group_size, 6]", "leave nothing"),
    ],
)
def test_bounds_that_follow_nothing_are_refused(bounds: str, part: str) -> None:
    message = refused(f"{SEARCH}.k_max.int={bounds}")
    assert message.startswith(f"{SEARCH}.k_max")
    assert part in message


@pytest.mark.parametrize("model", ["/no/such/place", "nope", "./here", "a/b/c"])
def test_a_model_that_does_not_exist_is_refused(model: str) -> None:
    message = refused(f"trial.model={model}", error=ModelError)
    assert "trial.model" in message
    assert model in message


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    assert "config.json" in refused(f"trial.model={tmp_path}", error=ModelError)
    (tmp_path / "config.json").write_text("{}")


def test_a_hub_id_needs_no_network() -> None:
    assert load_spec("quickstart", ["trial.model=org/name"]).reference_config().model == "org/name"


def test_a_rung_beyond_the_trial_is_refused() -> None:
    assert "search.early_stopping.first_rung" in refused(
        "search.early_stopping={type: asha, first_rung: 100000}"
    )


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("foo", "no assignment"),
        ("=1", "no assignment"),
        ("candidates.7.label=x", "'7' is no item of a list of 1"),
        ("name.x=1", "holds no keys"),
        ("name=[1", "not YAML"),
    ],
)
def test_bad_overrides_are_named(override: str, part: str) -> None:
    message = refused(override)
    assert message.startswith("--set")
    assert part in message


def test_files_that_are_no_spec(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="shipped space .*quickstart"):
        load_spec("no_such_space")
    file = tmp_path / "bad.yaml"
    for text, part in [("a: [", "not YAML"), ("- 1", "not a mapping"), ("name: a\nname: b", "occurs twice")]:
        file.write_text(text)
        with pytest.raises(SpecError, match=part):
            load_spec(file)


def test_several_errors_are_one_message_with_a_line_each() -> None:
    message = refused("slots.coutn=2", "search.trials=0")
    assert len(message.strip().splitlines()) == 2


TWO = yaml.safe_load("""
name: two
trial: {rollouts_per_step: 128}
reference: {strategy: dapo}
candidates:
  - strategy: {preset: v05}
    search: {group_size: {choice: [2, 4, 8]}, k_max: {int: [group_size, 16]}, alpha: {float: [0.01, 0.9], log: true}}
  - label: spelled_out
    strategy: {prior: strata, fusion: tested, budget: {type: sequential, k_min: 2, k_max: 8}}
    search: {budget.k_max: {int: [budget.k_min, 16]}, fusion.alpha: {float: [0.05, 0.5]}}
""")


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_no_invalid_configuration_is_ever_proposed(sampler: str) -> None:
    spec = parse_spec(TWO)
    samplers = {
        "tpe": optuna.samplers.TPESampler(seed=0, multivariate=True, group=True, n_startup_trials=5),
        "random": optuna.samplers.RandomSampler(seed=0),
    }
    study = optuna.create_study(sampler=samplers[sampler], direction="maximize")

    def objective(trial: optuna.Trial) -> float:
        config, searched = suggest(spec, trial)
        label = searched["strategy"]
        assert set(trial.params) == set(searched)
        assert all(name == "strategy" or name.startswith(f"{label}.") for name in searched)
        budget = config.strategy.budget
        assert budget.k_min <= budget.k_max <= 16
        assert config.rollouts_per_step == 128
        return -float(budget.k_max) + config.strategy.fusion.alpha

    study.optimize(objective, n_trials=60)
    assert {trial.params["strategy"] for trial in study.trials} == {"v05", "spelled_out"}


def test_the_papers_defaults_run_first() -> None:
    spec = parse_spec(TWO)
    study = optuna.create_study()
    for parameters in enqueued(spec):
        study.enqueue_trial(parameters)
    first, searched = suggest(spec, study.ask())
    assert searched == pytest.approx(
        {"strategy": "v05", "v05.group_size": 4, "v05.k_max": 16, "v05.alpha": 0.3173105078629141}
    )
    assert (
        first.strategy.label()
        == parse_spec(
            {
                **TWO,
                "reference": {
                    "strategy": {"preset": "v05", "group_size": 4, "k_max": 16, "alpha": 0.3173105078629141}
                },
            }
        )
        .reference_config()
        .strategy.label()
    )


def test_defaults_outside_the_ranges_are_not_enqueued() -> None:
    spec = load_spec(
        "quickstart", [f"{SEARCH}.k_max={{int: [group_size, 6]}}", f"{SEARCH}.group_size={{choice: [2, 4]}}"]
    )
    assert enqueued(spec) == []


def test_candidates_share_everything_but_the_strategy() -> None:
    spec = parse_spec(TWO)
    reference = spec.reference_config()
    config = spec.candidate_config(spec.candidates[0], {"group_size": 8})
    assert config.model_copy(update={"strategy": reference.strategy}) == reference


def test_two_candidates_need_two_labels() -> None:
    assert "label 'v05' occurs 2 times" in refused("candidates=[{strategy: v05}, {strategy: v05}]")
