"""What a sweep left on disk, damaged: one message that names the file and the fix, and no traceback."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from trimtab.cli.main import main
from trimtab.decide.compare.read import Store
from trimtab.errors import StorageError
from trimtab.planning.doctor import diagnose
from trimtab.search.study import JOURNAL, create_studies, load_studies
from trimtab.sweepdir import journal as events
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepspec.spec import SweepSpec

NAME = "v05_small"


def said(home: Path, command: str) -> str:
    """Return the message of a command that refuses: it starts nothing, and is no bug."""
    done = CliRunner().invoke(main, [*command.split(), "--home", str(home)])
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.output.startswith("Error: ")
    return done.output


@pytest.fixture
def finished(journal: Any, spec: SweepSpec) -> Path:
    """The folder of a sweep whose reference has ended."""
    SweepDir(journal.folder).write_spec(spec)
    journal.start("trial-0000")
    for seed in spec.seeds:
        journal.run("trial-0000", seed, [0.4, 0.5])
    journal.finish("trial-0000")
    return Path(journal.folder)


@pytest.mark.parametrize(
    "line", [b"gar\xffbage", b"{}", b"3", b"[" * 100_000, b'{"event":"step","trial":"t"}']
)
@pytest.mark.parametrize("command", ["status", "track", "confirm", "resume"])
def test_a_garbage_line_in_a_journal_is_named_with_its_fix(finished: Path, command: str, line: bytes) -> None:
    file = finished / "records" / "trial-0000.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], line + b"\n", *lines[2:]]))
    message = said(finished.parents[1], f"{command} {NAME}")
    assert f"{file}, line 3: " in message
    assert f"sed -i 3d {file}" in message
    file.write_bytes(b"".join(lines))
    assert [event["event"] for event in SweepDir(finished).events()][-1] == "trial_finished"


def test_an_event_without_what_its_readers_need_is_damage_too(finished: Path) -> None:
    events.append(finished, {"event": "trial_finished", "trial": "trial-0000", "time": 1.0})
    with pytest.raises(StorageError, match=r"trial-0000\.jsonl, line \d+: .*trial_finished"):
        list(SweepDir(finished).events())
    with pytest.raises(StorageError, match=r"trial-0000\.jsonl, line \d+"):
        events.repair(finished)


def test_a_garbage_line_in_the_studies_journal(finished: Path, spec: SweepSpec) -> None:
    create_studies(spec, NAME, finished)
    file = finished / JOURNAL
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], b"garbage\n", *lines[1:]]))
    with pytest.raises(StorageError, match=r"study\.journal, line 2: 'garbage' is not .*backup"):
        load_studies(spec, NAME, finished)


@pytest.mark.parametrize(
    ("file", "command", "fix"),
    [
        ("driver.json", "status", "if no process drives the sweep any more, remove that file"),
        ("tracking.json", "compare", "trimtab track v05_small"),
        ("tracked.json", "track", "remove it: everything is sent again"),
    ],
)
@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_a_damaged_file_of_a_sweep(finished: Path, file: str, command: str, fix: str, text: str) -> None:
    (finished / file).write_bytes(text.encode("latin-1"))
    message = said(finished.parents[1], f"{command} {NAME}")
    assert str(finished / file) in message
    assert fix in message


def broken_store(file: Path, how: str, good: Path) -> None:
    if how == "cut":
        file.write_bytes(good.read_bytes()[:100_000])
    elif how == "header":
        file.write_bytes(good.read_bytes()[:50])
    elif how == "text":
        file.write_text("hello")
    else:
        with closing(sqlite3.connect(file)) as other:
            other.execute("CREATE TABLE songs (title TEXT)")


@pytest.mark.parametrize("how", ["cut", "header", "text", "foreign"])
def test_a_broken_store_is_named_with_how_to_fill_a_new_one(
    finished: Path, empty_store: Path, how: str
) -> None:
    home = finished.parents[1]
    file = home / "mlflow.db"
    broken_store(file, how, empty_store)
    before = file.read_bytes()
    for command in ("compare", "track", "report", "promote", "resume"):
        message = said(home, f"{command} {NAME}")
        assert f"{file} " in message
        assert f"trimtab track NAME --home {home}" in message
    assert file.read_bytes() == before, "nothing was written into it"
    (check,) = (check for check in diagnose(home, f"sqlite:///{file}") if check.name == "mlflow")
    assert (check.state, str(file) in check.text) == ("red", True)


def test_a_new_store_gets_what_the_broken_one_had(finished: Path, empty_store: Path) -> None:
    home = finished.parents[1]
    (home / "mlflow.db").write_text("hello")
    said(home, f"compare {NAME}")
    shutil.copy(empty_store, home / "mlflow.db")
    done = CliRunner().invoke(main, ["track", NAME, "--home", str(home)])
    assert done.exit_code == 0, done.output
    assert Store(f"sqlite:///{home / 'mlflow.db'}").sweep(NAME).runs


def test_a_store_that_is_damaged_further_in_gives_one_line(finished: Path, empty_store: Path) -> None:
    """MLflow finds it only when it reads there: its traceback must not be shown."""
    home = finished.parents[1]
    good = empty_store.read_bytes()
    (home / "mlflow.db").write_bytes(good[:4096] + b"\xff" * (len(good) - 4096))
    message = said(home, f"compare {NAME}")
    assert str(home / "mlflow.db") in message
    assert "trimtab track NAME" in message
    assert len(message.splitlines()) == 1


def test_a_sweep_does_not_start_on_a_broken_store(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("hello")
    done = CliRunner().invoke(main, ["sweep", "v05_small", "--set", f"home={tmp_path}"])
    assert done.exit_code == 2, done.output
    assert str(tmp_path / "mlflow.db") in done.output
    assert not (tmp_path / "sweeps").exists()


@pytest.fixture
def tracked(finished: Path, empty_store: Path) -> Path:
    """The same sweep, tracked."""
    shutil.copy(empty_store, finished.parents[1] / "mlflow.db")
    done = CliRunner().invoke(main, ["track", NAME, "--home", str(finished.parents[1])])
    assert done.exit_code == 0, done.output
    return finished


@pytest.mark.parametrize("trace", ["tracked", "checkpoint"])
def test_removed_records_are_missed(finished: Path, trace: str) -> None:
    """Without them the sweep looked as if it had been interrupted before its first trial."""
    if trace == "tracked":
        (finished / "tracked.json").write_text('{"store": {"trial-0000/1": {"own": 9}, "/0": {"own": 1}}}')
    else:
        (finished / "trials" / "trial-0000").mkdir(parents=True)
    shutil.rmtree(finished / "records")
    home = finished.parents[1]
    for command in ("status", "track", "confirm", "resume", "extend --trials 2"):
        message = said(home, f"{command} {NAME}")
        assert f"{finished / 'records' / 'trial-0000.jsonl'} is gone" in message
        assert f"trimtab compare {NAME} --home {home}" in message


def test_a_removed_spec_is_in_mlflow(tracked: Path) -> None:
    home = tracked.parents[1]
    (tracked / "spec.yaml").unlink()
    for command in ("status", "resume", "confirm", "track"):
        message = said(home, f"{command} {NAME}")
        assert f"{tracked / 'spec.yaml'} is gone" in message
        assert f"artifact spec.yaml of the run '{NAME}'" in message
        assert "never began" not in message
    (kept,) = (home / "artifacts").rglob("spec.yaml")
    shutil.copy(kept, tracked / "spec.yaml")
    done = CliRunner().invoke(main, ["status", NAME, "--home", str(home)])
    assert done.exit_code == 0, done.output


def test_a_removed_study_ends_the_search_and_nothing_else(finished: Path) -> None:
    home = finished.parents[1]
    for command in ("resume", "extend --trials 2"):
        message = said(home, f"{command} {NAME}")
        assert f"{finished / JOURNAL} is gone" in message
        assert f"trimtab confirm {NAME} --home {home}" in message
    done = CliRunner().invoke(main, ["status", NAME, "--home", str(home)])
    assert done.exit_code == 0, done.output


def test_a_name_whose_sweep_has_run_is_in_use_whatever_was_removed(finished: Path) -> None:
    (finished / "spec.yaml").unlink()
    done = CliRunner().invoke(main, ["sweep", NAME, "--name", NAME, "--set", f"home={finished.parents[1]}"])
    assert done.exit_code == 2, done.output
    assert "is in use" in done.output
