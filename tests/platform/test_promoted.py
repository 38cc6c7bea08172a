"""What `trimtab train` is given: a promoted file, or a version of the registry."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from trimtab import api
from trimtab.cli.main import main
from trimtab.decide.promoted import INSIDE, Training, load_promoted
from trimtab.decide.train import find_promoted
from trimtab.errors import NotFoundError, SecurityError, SpecError, TrackingError
from trimtab.sweepspec.load import load_spec
from trimtab.tracking.store import connect


@pytest.fixture
def file(tmp_path: Path) -> Path:
    trial = load_spec("v05_small").reference_config().model_dump(mode="json")
    promoted = tmp_path / "promoted" / "quick.yaml"
    promoted.parent.mkdir()
    promoted.write_text(yaml.safe_dump({"name": "quick", "trial": trial, "production": {"steps": 100}}))
    return promoted


def test_production_scales_what_was_found(file) -> None:
    given = (
        "steps=400",
        "workers=4",
        "engines=2",
        "max_tokens=512",
        "max_model_len=1024",
        "rollouts_per_step=256",
        "evaluate_every=20",
        "zero_stage=2",
        "train=/data/train.jsonl",
    )
    found = load_promoted(file, tuple(f"production.{one}" for one in given))
    config, before = found.config(), load_promoted(file).config()
    assert before.steps == 100
    assert (config.steps, config.rollouts_per_step, config.evaluation.every) == (400, 256, 20)
    assert (config.learner.workers, config.learner.zero_stage, config.engine.count) == (4, 2, 2)
    assert (config.sampling.max_tokens, config.engine.max_model_len) == (512, 1024)
    assert config.strategy == before.strategy
    assert config.learner.lr == before.learner.lr
    training = Training(found)
    assert (training.slots.count, training.seeds, training.trials) == (1, (0,), 1)
    assert training.reference_config() == config
    assert training.budget == 400 * 256


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("production.steps=0", "production.steps"),
        ("production.worker=2", "production.worker"),
        ("production.max_tokens=many", "production.max_tokens"),
        ("trial.strategy.preset=v9", "v9"),
        ("name=../up", "name"),
    ],
)
def test_what_is_wrong_with_a_promoted_file_is_named(file, override, message) -> None:
    with pytest.raises(SpecError, match=message):
        load_promoted(file, (override,))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trial.model=/no/such/model", "trial.model: '/no/such/model' does not exist"),
        ("trial.loss.kl={coefficient: 1, reference: /none}", "trial.loss.kl.reference: '/none' is neither"),
        ("trial.task.name=nothing", "trial.task.name: 'nothing'"),
        ("trial.strategy={prior: 'gone_package.mine:Prior', fusion: tested}", "trial.strategy.prior"),
        ("trial.evaluation.split=test", "trial.evaluation.split: test would show"),
        ("tracking.uri=localhost:5000", "tracking.uri: 'localhost:5000'"),
        ("tracking.uri=http://me:secret@host:5000", "tracking.uri: the address holds a password"),
        ("slots.memory_gb=4000", "4000.0 GB"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_made(file, override, message, tmp_path) -> None:
    home = tmp_path / "home"
    done = CliRunner().invoke(main, ["train", str(file), "--set", override, "--home", str(home)])
    assert done.exit_code == 2, done.output
    assert done.output.startswith("Error: ")
    assert message in done.output
    assert not home.exists()


def test_a_promoted_file_with_a_secret_is_refused(file, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "sesame-open")
    with pytest.raises(SecurityError, match=r"promoted\.provenance\.note: holds the value of \$MY_TOKEN"):
        api.train(load_promoted(file, ("provenance.note=sesame-open",)), tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_version_brings_its_own_file(file, store_uri, tmp_path) -> None:
    client = connect(store_uri)
    experiment = client.create_experiment("models", artifact_location=(tmp_path / "artifacts").as_uri())
    with_file, without = (client.create_run(experiment).info for _ in range(2))
    client.log_text(with_file.run_id, file.read_text(), f"model/{INSIDE}")
    client.log_text(without.run_id, "{}", "model/config.json")
    client.create_registered_model("quick")
    for run in (with_file, without):
        client.create_model_version("quick", f"{run.artifact_uri}/model", run_id=run.run_id)
    client.set_registered_model_alias("quick", "champion", "1")
    for source in ("models:/quick@champion", "models:/quick/1"):
        assert find_promoted(source, store_uri, tmp_path, ("production.steps=7",)).config().steps == 7
    for source in (
        "models:/quick@challenger",
        "models:/quick/9",
        "models:/other@champion",
        "models:/quick/2",
    ):
        with pytest.raises(NotFoundError, match="trimtab promote"):
            find_promoted(source, store_uri, tmp_path)
    with pytest.raises(SpecError, match="names no version"):
        find_promoted("models:/quick", store_uri, tmp_path)
    with pytest.raises(SpecError, match="no such file"):
        find_promoted(str(tmp_path / "absent.yaml"), store_uri, tmp_path)
    with pytest.raises(TrackingError, match="does not answer"):
        find_promoted("models:/quick@champion", "http://127.0.0.1:9", tmp_path)
