"""What `trimtab train` is given: a promoted file, or a version of the registry."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from trimtab.decide.promoted import INSIDE, Training, load_promoted
from trimtab.decide.train import find_promoted
from trimtab.errors import NotFoundError, SpecError, TrackingError
from trimtab.sweepspec.load import load_spec
from trimtab.tracking.store import connect


@pytest.fixture
def file(tmp_path: Path) -> Path:
    trial = load_spec("quickstart").reference_config().model_dump(mode="json")
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
