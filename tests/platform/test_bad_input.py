"""Mistakes that were tracebacks, or failures in the middle of a sweep: one message and exit code 2 now."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from models import looks_like_a_model, write_weights

import trainables.models
from trainables.config import TaskConfig
from trainables.tasks.load import load_task
from trimtab.cli.main import main
from trimtab.errors import ModelError, SpecError
from trimtab.sweepdir import driver
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepdir.home import command
from trimtab.sweepspec.load import load_spec


def trimtab(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def refused(done: Result, *parts: str) -> None:
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output
    assert done.output.startswith("Error: ")
    for part in parts:
        assert part in done.output


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A user's package of its own name; its modules stand in `MODULES`."""
    name = f"user_package_{abs(hash(request.node.name))}"
    for module, text in MODULES.items():
        file = tmp_path / name / f"{module}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


MODULES = {
    "__init__": "",
    "raises": "raise RuntimeError('no licence found')",
    "needs": "import no_such_dependency",
    "old": "from trainables.strategies.belief import Belief",
    "syntax": "def (",
    "mine": """
class Task:
    judge = "x:y"
    def __init__(self, config, level=1):
        self.level = level
    def split(self, name):
        return [self.level]
class Thing:
    pass
number = 3
""",
    "bare": """
class Task:
    judge = "x:y"
    def split(self, name):
        return []
""",
    "axes": """
from trainables.strategies.priors.base import Prior
class Half(Prior):
    "Abstract still: nothing is written."
class Steady(Prior):
    def __init__(self, rate: float) -> None:
        self.rate = rate
    def predict(self, batch):
        return None
""",
    "leaves": "raise SystemExit(7)",
}


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("seeds.0.x=1", ["--set", "seeds.0.x=1", "holds no keys"]),
        ("candidates.0.search.group_size={float: [2, 8]}", ["search.group_size", "int: [low, high]"]),
        ("trial.task.name=additoin", ["trial.task.name", "'additoin'", "'addition'"]),
        ("trial.task.name=math", ["trial.task.train", "is missing", ".jsonl"]),
        (
            "trial.task={name: math, train: /no/file.jsonl, validation: a/b}",
            ["trial.task.train", "/no/file.jsonl"],
        ),
        ("trial.task={name: math, train: a/b, validation: data}", ["trial.task.validation", "'data'", "hub"]),
        (
            "trial.task={name: math, train: a/b, validation: a/b, template: Q}",
            ["template", "{question}"],
        ),
        ("candidates.0.label=dapo", ["candidates.0.label", "'dapo'", "reference's name"]),
        ("reference.label=da po", ["reference.label", "'da po'"]),
        ("storage=study.db", ["storage", "'study.db'", "postgresql+psycopg://"]),
        ("storage=redis://user:key@host/0", ["storage", "'redis://user:***@host/0'", "sqlite", "journal"]),
        ("storage=mysql://host/studies", ["storage", "mysql", "postgresql"]),
        (
            "candidates=[{strategy: {preset: poise, layer: 99}}]",
            ["candidates.0.strategy.prior.layer", "99"],
        ),
        ("tracking.uri=localhost:5000", ["tracking.uri", "'localhost:5000'", "http://"]),
        (
            "trial.loss.kl={coefficient: 0.1, reference: /no/such}",
            ["trial.loss.kl.reference", "'/no/such'", "'start'"],
        ),
        ("trial.loss.kl.coefficient=-1", ["trial.loss.kl.coefficient", "-1"]),
        ("trial.loss.kl.estimator=k4", ["trial.loss.kl.estimator", "k4", "'k3'"]),
        ("trial.loss.entropy_bonus=-1", ["trial.loss.entropy_bonus", "-1"]),
        ("trial.learner.betas=[0.9, 1.0]", ["trial.learner.betas", "1.0"]),
        ("trial.learner.betas=[-0.1, 0.9]", ["trial.learner.betas", "-0.1"]),
        ("reference.strategy={}", ["reference.strategy", "names nothing", "dapo"]),
    ],
)
def test_refused_at_load(override: str, parts: list[str]) -> None:
    refused(trimtab("plan", "v05_small", "--set", override), *parts)


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("raises:Thing", ["RuntimeError", "no licence found"]),
        ("needs:Thing", ["no_such_dependency", "not installed"]),
        ("old:Thing", ["'trainables.strategies.belief'", "CHANGELOG.md"]),
        ("syntax:Thing", ["SyntaxError"]),
        ("mine:Thign", ["no class 'Thign'", "did you mean 'Thing'"]),
        ("mine:number", ["is not a class but the int 3"]),
        ("leaves:Thing", ["SystemExit"]),
        ("mine:Thing", ["not a Strategy"]),
    ],
)
def test_a_users_class_is_looked_at_before_anything_starts(package: str, path: str, parts: list[str]) -> None:
    overrides = ["--set", f"candidates=[{{strategy: '{package}.{path}'}}]"]
    refused(trimtab("plan", "v05_small", *overrides), "candidates.0.strategy", path, *parts)


def test_axes_and_tasks_of_the_users_own_are_looked_at_too(package: str) -> None:
    prior = f"candidates=[{{strategy: {{prior: '{package}.mine:Thing', fusion: tested}}}}]"
    with pytest.raises(SpecError, match=r"candidates\.0\.strategy\.prior: .*not a Prior"):
        load_spec("v05_small", [prior])
    with pytest.raises(SpecError, match=r"trial\.task\.name.*without `split`"):
        load_spec("v05_small", [f"trial.task.name={package}.mine:Thing"])
    assert load_spec("v05_small", [f"trial.task.name={package}.mine:Task"])


def test_a_task_of_the_users_own_takes_params(package: str) -> None:
    task = f"trial.task={{name: '{package}.mine:Task', params: {{%s}}}}"
    spec = load_spec("v05_small", [task % "level: 3"])
    built = load_task(TaskConfig.model_validate_json(spec.reference_config().task.model_dump_json()))
    assert built.split("train") == [3]
    with pytest.raises(SpecError, match=r"trial\.task\.params: .*'levle'; its parameters are .*level=1"):
        load_spec("v05_small", [task % "levle: 3"])
    with pytest.raises(SpecError, match=r"trial\.task\.params: level belongs to a task of your own"):
        load_spec("v05_small", ["trial.task={name: addition, params: {level: 3}}"])
    with pytest.raises(SpecError, match=r"trial\.task\.params: .*Task' cannot be built"):
        load_spec("v05_small", [f"trial.task.name={package}.bare:Task"])


def test_a_task_without_params_is_written_as_before() -> None:
    """Runs of earlier versions are compared with later ones by this."""
    assert "params" not in TaskConfig().model_dump()
    assert TaskConfig(name="p.m:T", params={"level": 3}).model_dump()["params"] == {"level": 3}


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ("Half", r"strategy\.prior: .*axes:Half' lacks predict"),
        ("Steady", r"strategy\.prior: .*cannot be built.*'rate'"),
        ("{type: custom, path: '%s.axes:Steady', params: {rtae: 1}}", "rtae.*its parameters are .rate"),
    ],
)
def test_an_axis_that_could_not_be_built_is_refused_at_load(package: str, prior: str, message: str) -> None:
    written = prior % package if "%" in prior else f"'{package}.axes:{prior}'"
    with pytest.raises(SpecError, match=message):
        load_spec("v05_small", [f"candidates=[{{strategy: {{prior: {written}, fusion: tested}}}}]"])


def test_an_axis_that_is_searched_is_looked_at_in_every_choice(package: str) -> None:
    search = f"search: {{prior: {{choice: [strata, '{package}.axes:Half']}}}}"
    with pytest.raises(SpecError, match=r"strategy\.prior: .*axes:Half' lacks predict"):
        load_spec("v05_small", [f"candidates=[{{strategy: {{prior: strata, fusion: tested}}, {search}}}]"])


def test_an_axis_that_can_be_built_is_taken(package: str) -> None:
    prior = f"{{type: custom, path: '{package}.axes:Steady', params: {{rate: 0.5}}}}"
    assert load_spec(
        "v05_small", ["search.trials=1", f"candidates=[{{strategy: {{prior: {prior}, fusion: tested}}}}]"]
    )


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("seeds=[]", ["seeds: []", "must have at least 1 item"]),
        ("reference=dapo", ["reference.strategy: 'dapo'", "write {strategy: dapo}"]),
        ("candidates=[v05]", ["candidates.0.strategy: 'v05'", "write {strategy: v05}"]),
        ("reference.strategy=dpao", ["'dpao'", "did you mean 'dapo'?"]),
        ("candidates.0.strategy.aplha=0.1", ["strategy.aplha", "0.1", "did you mean 'alpha'?"]),
        ("reference.strategy={fusoin: tested}", ["strategy.fusoin", "did you mean 'fusion'?"]),
        ("candidates.0.strategy.alpha=1.5", ["strategy.alpha: 1.5 must be less than 1"]),
        ("candidates.0.strategy.group_size=2.5", ["2.5 must be a whole number"]),
        ("trial.steps=many", ["trial.steps: 'many'", "must be a whole number"]),
        ("reference.strategy={fusion: {type: testd}}", ["strategy.fusion", "did you mean 'tested'?"]),
        ("reference.strategy={prior: strta}", ["strategy.prior", "'strta'", "did you mean 'strata'?"]),
        (
            "reference.strategy={fusion: {type: tested, aplha: 1}}",
            ["reference.strategy.fusion.aplha", "did you mean 'alpha'?"],
        ),
        (
            "reference.strategy={warmup: {update: 1, strategy: dapo}}",
            ["reference.strategy.warmup.update", "did you mean 'updates'?"],
        ),
        (
            "search.early_stopping={type: median, first_rung: 5, x: 1}",
            ["its keys are type, first_rung, min_trials"],
        ),
        (
            "reference.strategy={prior: strata, fusion: {type: beta, x: 1}}",
            ["reference.strategy.fusion.x", "its keys are type, "],
        ),
        ("reference.strategy={warmup: {updates: 1}}", ["reference.strategy.warmup.strategy: is missing"]),
        (
            "candidates=[{strategy: {fusion: tested, prior: pool}, search: {fusion.aplha: {choice: [1]}}}]",
            ["candidates.0.search.fusion.aplha", "did you mean 'alpha'?"],
        ),
    ],
)
def test_messages_are_in_plain_words(override: str, parts: list[str]) -> None:
    done = trimtab("plan", "v05_small", "--set", override)
    refused(done, *parts)
    for raw in ("Input should", "input should", "tuple", "instance of", "validation"):
        assert raw not in done.output


def test_the_hint_to_follow_another_parameter_is_given_only_where_it_helps() -> None:
    hint = "follow another parameter"
    related = trimtab("plan", "v05_small", "--set", "candidates.0.search.k_max={int: [4, 16]}")
    refused(related, "k_max=4", hint)
    alone = trimtab("plan", "v05_small", "--set", "candidates.0.search.alpha={float: [0.0, 0.5]}")
    refused(alone, "alpha=0.0", "Narrow the range")
    assert hint not in alone.output


def test_a_float_range_in_whole_steps_may_serve_a_whole_number() -> None:
    assert load_spec("v05_small", ["candidates.0.search.group_size={float: [2, 8], step: 2}"])


@pytest.mark.parametrize("text", ["? [a, b]\n: 1\n", "name: x\ntrial: {? {a: 1} : 2}\n"])
def test_a_key_that_is_a_list_or_a_mapping(tmp_path: Path, text: str) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(text)
    refused(trimtab("plan", str(file)), "not YAML", "is not text", "line")


@pytest.mark.parametrize("text", ["{", "[1, 2]", "\xff", "{}", '{"model_type": 3}'])
def test_a_corrupt_config_of_a_model(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"trial\.model: .*config\.json.*save the model"):
        load_spec("v05_small", [f"trial.model={tmp_path}"])


def cut(file: Path, to: int) -> None:
    file.write_bytes(file.read_bytes()[:to])


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda m: (m / "model.safetensors").unlink(), "holds no weights"),
    "cut in the data": (lambda m: cut(m / "model.safetensors", -1), "model.safetensors' is cut short"),
    "cut in the header": (lambda m: cut(m / "model.safetensors", 20), "or is cut short"),
    "cut in the length": (lambda m: cut(m / "model.safetensors", 3), "(3 bytes)"),
    "a header that lies": (lambda m: (m / "model.safetensors").write_bytes(b"\xff" * 99), "no safetensors"),
    "a header of no JSON": (
        lambda m: (m / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{]"),
        "its header is not JSON",
    ),
    "no tensors": (lambda m: write_weights(m / "model.safetensors", ()), "holds no tensors"),
    "a page of HTML": (lambda m: (m / "model.safetensors").write_text("<html>" * 9), "no safetensors file"),
    "another model's": (
        lambda m: write_weights(m / "model.safetensors", ("model.embed_tokens.weight",)),
        "says 97 tokens of 64 numbers",
    ),
    "no tokenizer": (lambda m: (m / "tokenizer.json").unlink(), "holds no tokenizer"),
    "a cut tokenizer": (lambda m: cut(m / "tokenizer.json", 30), "tokenizer.json' cannot be read as JSON"),
    "an empty tokenizer": (
        lambda m: (m / "tokenizer.json").write_text("{}"),
        "does not describe a tokenizer",
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_model_that_could_not_be_loaded_is_refused_before_anything_starts(tmp_path: Path, how: str) -> None:
    model = looks_like_a_model(tmp_path / "model", vocab_size=97, hidden_size=64)
    load_spec("v05_small", [f"trial.model={model}"])
    spoil, message = SPOILT[how]
    spoil(model)
    refused(trimtab("plan", "v05_small", "--set", f"trial.model={model}"), "trial.model", str(model), message)


def test_weights_in_several_files_are_all_looked_at(tmp_path: Path) -> None:
    model = looks_like_a_model(tmp_path)
    (model / "model.safetensors").unlink()
    index = model / "model.safetensors.index.json"
    placed = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    index.write_text(json.dumps({"weight_map": placed}))
    write_weights(model / "model-1.safetensors", ("a", "b"))
    plan = ["plan", "v05_small", "--set", f"trial.model={model}"]
    refused(trimtab(*plan), "trial.model", "lacks 1 of the 2 files of weights", "model-2.safetensors")
    write_weights(model / "model-2.safetensors", ("d",))
    refused(trimtab(*plan), "trial.model", "tensor 'c' is not in", "model-2.safetensors")
    write_weights(model / "model-2.safetensors", ("c",))
    assert trimtab(*plan).exit_code == 0
    index.write_text("{}")
    refused(trimtab(*plan), "trial.model", "has no weight_map")


def test_the_shipped_model_is_whole() -> None:
    shipped = Path(trainables.models.__path__[0]) / "shipped"
    assert load_spec("v05_small", [f"trial.model={shipped}"])


@pytest.mark.parametrize(("option", "number"), [("--cpus", "nan"), ("--memory-gb", "inf"), ("--gpus", "-1")])
def test_what_a_cluster_may_grow_to_is_a_size_too(option: str, number: str) -> None:
    done = trimtab("submit", "v05_small", "--address", "http://127.0.0.1:1", option, number)
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert option in done.output
    assert number in done.output


@pytest.mark.parametrize("command", ["sweep", "resume", "confirm"])
@pytest.mark.parametrize("number", ["nan", "0", "-1"])
def test_a_size_is_checked_on_this_machine_too(command: str, number: str) -> None:
    done = trimtab(command, "v05_small", f"--cpus={number}")
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert "--cpus" in done.output
    assert number in done.output


def test_a_size_without_a_cluster_is_refused_instead_of_ignored() -> None:
    done = trimtab("sweep", "v05_small", "--cpus", "64")
    assert done.exit_code == 2
    assert "--address" in done.output


def test_a_home_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "home"
    file.touch()
    refused(trimtab("sweep", "v05_small", "--set", f"home={file}"), "home", str(file), "cannot be written")


def test_a_home_that_nobody_may_write() -> None:
    refused(
        trimtab("sweep", "v05_small", "--set", "home=/proc/home"), "home", "/proc/home", "cannot be written"
    )


def test_init_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(trimtab("init", str(tmp_path / "file" / "mine.yaml")), "PATH", "cannot be written")


def test_hints_name_a_home_that_is_not_the_default() -> None:
    assert command("resume mine", Path(".trimtab")) == "trimtab resume mine"
    assert command("compare mine", Path("/data/my home")) == "trimtab compare mine --home '/data/my home'"


def test_a_past_sweep_is_read_although_its_model_and_classes_have_gone(tmp_path: Path) -> None:
    """`status` and `compare` read it; `resume`, which would need them, says what is gone."""
    model = looks_like_a_model(tmp_path / "model")
    own = "candidates=[{strategy: {prior: 'gone_package.mine:Prior', fusion: tested}}]"
    folder = tmp_path / "home" / "sweeps" / "past"
    folder.mkdir(parents=True)
    SweepDir(folder).write_spec(load_spec("v05_small", [f"trial.model={model}"]))
    shutil.rmtree(model)
    home = ["--home", str(tmp_path / "home")]
    done = trimtab("status", "past", *home)
    assert done.exit_code == 0, done.output
    assert f"resume it: trimtab resume past {' '.join(home)}" in " ".join(done.output.split())
    refused(trimtab("resume", "past", *home), "trial.model", str(model))
    refused(trimtab("compare", "past", *home), "past")
    assert "trial.model" not in trimtab("compare", "past", *home).output
    SweepDir(folder).write_spec(load_spec(folder / "spec.yaml", [own], outside=False))
    assert trimtab("status", "past", *home).exit_code == 0


def test_a_running_sweep_is_stopped_by_the_command_that_is_printed(tmp_path: Path) -> None:
    folder = tmp_path / "my home" / "sweeps" / "s"
    folder.mkdir(parents=True)
    with driver.registered(folder), pytest.raises(SpecError) as caught, driver.registered(folder):
        pytest.fail("two drivers")
    assert str(caught.value).endswith(f"trimtab stop s --home '{tmp_path}/my home'")
