"""Promotions that died half-way, and aliases that others move."""

from __future__ import annotations

import pytest

from trimtab.decide import registry
from trimtab.decide.registry import ALIAS, STATE, Registry
from trimtab.errors import RegistryError
from trimtab.tracking.store import connect


@pytest.fixture
def runs(store_uri, tmp_path) -> list[str]:
    client = connect(store_uri)
    experiment = client.create_experiment("models", artifact_location=(tmp_path / "artifacts").as_uri())
    return [client.create_run(experiment).info.run_id for _ in range(3)]


def promote(uri: str, run_id: str):
    source = f"{connect(uri).get_run(run_id).info.artifact_uri}/model"
    return Registry(uri).promote("quick", "champion", run_id, lambda: source, {}, lambda version: None)


def test_a_promotion_that_died_stands_in_nobodys_way_for_long(store_uri, runs, monkeypatch) -> None:
    client = connect(store_uri)
    client.create_registered_model("quick")
    dead = client.create_model_version(
        "quick", "file:///gone", run_id=runs[0], tags={STATE: "pending", ALIAS: "champion"}
    )
    with pytest.raises(RegistryError, match=r"version 1 \(under way; if it died"):
        promote(store_uri, runs[1])
    assert [v.version for v in client.search_model_versions("name = 'quick'")] == [dead.version]
    monkeypatch.setattr(registry, "STALE_S", 0.0)
    other = promote(store_uri, runs[1])
    assert other.before is None
    # The one that died may be repeated as well: what it left is no version to point at.
    again = promote(store_uri, runs[0])
    assert again.before == other.version
    assert again.version not in (str(dead.version), other.version)


def test_the_file_is_written_before_the_alias_moves(store_uri, runs) -> None:
    client, written = connect(store_uri), []

    def write(version: str) -> None:
        written.append((version, client.get_registered_model("quick").aliases))

    source = client.get_run(runs[0]).info.artifact_uri
    Registry(store_uri).promote("quick", "champion", runs[0], lambda: source, {}, write)
    assert written == [("1", {})]
    assert Registry(store_uri).version_of("quick", "champion") == "1"


def test_an_alias_that_somebody_moved_meanwhile_stays(store_uri, runs) -> None:
    client = connect(store_uri)
    promote(store_uri, runs[0])
    promote(store_uri, runs[1])

    def interfere(version: str) -> None:
        client.set_registered_model_alias("quick", "champion", "1")

    source = client.get_run(runs[2]).info.artifact_uri
    with pytest.raises(RegistryError, match="another promotion moves quick@champion to version 1"):
        Registry(store_uri).promote("quick", "champion", runs[2], lambda: source, {}, interfere)
    assert Registry(store_uri).version_of("quick", "champion") == "1"
    assert len(client.search_model_versions("name = 'quick'")) == 2


def test_rolling_back_to_a_deleted_version_is_refused(store_uri, runs) -> None:
    promote(store_uri, runs[0])
    promote(store_uri, runs[1])
    connect(store_uri).delete_model_version("quick", "1")
    with pytest.raises(RegistryError, match="deleted now"):
        Registry(store_uri).rollback("quick", "champion")
    assert Registry(store_uri).version_of("quick", "champion") == "2"


def test_a_training_run_is_registered_without_an_alias(store_uri, runs) -> None:
    source = connect(store_uri).get_run(runs[0]).info.artifact_uri
    for _ in range(2):
        done = Registry(store_uri).promote("quick", None, runs[0], lambda: source, {}, lambda version: None)
        assert (done.version, done.alias) == ("1", "")
    assert connect(store_uri).get_registered_model("quick").aliases == {}
