"""resume, extend and status on what cannot be continued: one message, nothing started, nothing changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from trimtab import api
from trimtab.cli.main import main
from trimtab.errors import NotFoundError, SpecError, StorageError
from trimtab.session.session import Ended
from trimtab.sweepdir import driver
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepspec.load import load_spec
from trimtab.watch.status import read_status


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep that was started once."""
    folder = tmp_path / "home" / "sweeps" / "s"
    folder.mkdir(parents=True)
    SweepDir(folder).write_spec(load_spec("v05_small", [f"home={tmp_path / 'home'}"]))
    return folder


def test_an_unknown_sweep_names_the_known_ones(folder: Path) -> None:
    home = folder.parents[1]
    for command in (
        lambda: api.resume("t", home),
        lambda: api.extend("t", 2, home),
        lambda: read_status(home, "t"),
    ):
        with pytest.raises(NotFoundError, match="sweeps there: s"):
            command()


def test_a_sweep_that_runs_is_not_driven_twice(folder: Path) -> None:
    with driver.registered(folder):
        for command in (
            lambda: api.resume("s", folder.parents[1]),
            lambda: api.extend("s", 2, folder.parents[1]),
        ):
            with pytest.raises(SpecError, match=r"driven by process \d+; stop it first: trimtab stop s"):
                command()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Sessions are only noted: how many trials their searcher has left."""
    noted: list[dict[str, Any]] = []

    class Noted:
        def __init__(self, folder: SweepDir, spec: Any, cluster: Any, **more: Any) -> None:
            noted.append({"name": folder.name, "trials": spec.trials})

        def run(self, body: Any, then: Any) -> Ended:
            noted[-1]["starts"] = body is not None
            return Ended("finished", [])

    monkeypatch.setattr("trimtab.session.sweep.Session", Noted)
    return noted


def test_a_sweep_that_ended_before_its_studies_were_made_is_resumed(
    folder: Path, ran: list[dict[str, Any]]
) -> None:
    """Loading Ray and Optuna takes its first seconds: Ctrl-C there leaves a spec and nothing else."""
    assert api.resume("s", folder.parents[1]).status == "finished"
    assert [(one["name"], one["starts"]) for one in ran] == [("s", True)]
    assert (folder / "study.journal").is_file()


def test_a_folder_in_which_nothing_began_says_how_to_be_rid_of_it(
    folder: Path, ran: list[dict[str, Any]]
) -> None:
    spec = SweepDir(folder).spec()
    with pytest.raises(SpecError, match=r"--name: 's' is in use.*trimtab resume s"):
        api.sweep(spec, name="s")
    (folder / "spec.yaml").unlink()
    with pytest.raises(NotFoundError, match=r"never began.*no spec\.yaml; remove it \(rm -r "):
        api.resume("s", folder.parents[1])
    with pytest.raises(SpecError, match=r"nothing ever began in it: rm -r "):
        api.sweep(spec, name="s")
    assert ran == []


def test_ctrl_c_while_a_sweep_begins_says_how_to_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trimtab.session.sweep.create_studies", interrupted)
    home = folder.parents[1]
    done = CliRunner().invoke(main, ["sweep", "v05_small", "--set", f"home={home}"])
    assert done.exit_code == 130
    assert f"trimtab resume v05_small --home {home}" in done.output


def test_an_extension_adds_something(folder: Path) -> None:
    before = (folder / "spec.yaml").read_text()
    with pytest.raises(SpecError, match="trials: 0"):
        api.extend("s", 0, folder.parents[1])
    assert (folder / "spec.yaml").read_text() == before


def test_a_storage_that_is_down_leaves_the_name_free(tmp_path: Path) -> None:
    spec = load_spec(
        "v05_small",
        [f"home={tmp_path}", "storage=postgresql://user@127.0.0.1:9/none", "trial.model=tiny"],
    )
    with pytest.raises(StorageError, match="cannot be used"):
        api.sweep(spec, name="down")
    assert not (tmp_path / "sweeps" / "down").exists()


def test_the_status_tells_what_ended_from_what_resume_would_continue(journal, spec, tmp_path: Path) -> None:
    folder = Path(journal.folder)
    SweepDir(folder).write_spec(spec)
    journal.start("trial-0000")
    for seed in (0, 1, 2):
        journal.run("trial-0000", seed, [0.4, 0.5])
    journal.finish("trial-0000")
    journal.start("trial-0001", 1)
    journal.event(
        "trial-0001",
        "run_finished",
        seed=0,
        status="failed",
        error="OutOfMemoryError: 3 GB\nmore",
        cause="out_of_memory",
    )
    journal.finish("trial-0001", "failed", "OutOfMemoryError: 3 GB")
    journal.start("trial-0002", 2)
    journal.run("trial-0002", 0, [0.4, 0.5])
    journal.run("trial-0002", 1, [0.4], status=None)
    found = read_status(folder.parents[1], folder.name)
    assert found.status == "interrupted"
    assert [(t.status, t.seeds_finished) for t in found.trials] == [
        ("finished", 3),
        ("failed", 0),
        ("interrupted", 1),
    ]
    assert found.trials[1].cause == "out_of_memory"
    with driver.registered(folder):
        running = read_status(folder.parents[1], folder.name)
    assert running.status == "running"
    assert running.trials[2].status == "running"
