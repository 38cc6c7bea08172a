"""The commands after a sweep, given what does not exist: one message, exit code 2, nothing made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from trimtab.cli.main import main
from trimtab.tracking.store import connect


@pytest.fixture(scope="module")
def home(tmp_path_factory, empty_store) -> Path:
    """A home whose store holds nothing but a model without versions."""
    path = tmp_path_factory.mktemp("empty")
    shutil.copy(empty_store, path / "mlflow.db")
    connect(f"sqlite:///{path / 'mlflow.db'}").create_registered_model("bare")
    return path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("compare", "nothing"), "no sweep named 'nothing'"),
        (("compare", "../up"), "'../up'"),
        (("confirm", "nothing"), "no sweep named 'nothing'"),
        (("report", "nothing"), "no sweep named 'nothing'"),
        (("promote", "nothing"), "no sweep named 'nothing'"),
        (("promote", "nothing", "--force"), "no sweep named 'nothing'"),
        (("track", "nothing"), "no sweep named 'nothing'"),
        (("rollback", "nothing"), "nothing"),
        (("rollback", "bare"), "has no alias 'champion'"),
        (("train", "absent.yaml"), "absent.yaml: no such file"),
        (("train", "models:/nothing@champion"), "trimtab promote"),
        (("train", "models:/bare@champion"), "trimtab promote"),
        (("train", "models:/bare"), "names no version"),
    ],
)
def test_what_does_not_exist_is_named(home, command, message, monkeypatch) -> None:
    monkeypatch.chdir(home)
    before = sorted(home.rglob("*"))
    done = CliRunner().invoke(main, [*command, "--home", str(home)])
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert done.output.startswith("Error: ")
    assert "Traceback" not in done.output
    assert sorted(home.rglob("*")) == before


def test_a_home_without_a_store(tmp_path) -> None:
    done = CliRunner().invoke(main, ["compare", "quick", "--home", str(tmp_path / "none")])
    assert done.exit_code == 2
    assert "run a sweep first" in done.output
    assert not (tmp_path / "none").exists()
