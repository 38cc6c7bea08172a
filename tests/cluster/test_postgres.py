"""Studies in a real PostgreSQL server equal those in a journal file, and no trial is lost or doubled."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import optuna
import psycopg
import pytest
from optuna.trial import TrialState
from site_services import postgres
from speed import patience

from trimtab.errors import NotFoundError, StorageError
from trimtab.search.searcher import StudySearcher
from trimtab.search.study import create_studies, load_studies, open_storage
from trimtab.sweepdir.journal import append
from trimtab.sweepspec.load import load_spec
from trimtab.sweepspec.spec import SweepSpec

STEP = 1280
"""Rollouts between two evaluations of the v05_small."""
OVERRIDES = (
    "search.trials=5",
    "candidates.0.search={alpha: {float: [0.01, 0.9], log: true}, k_max: {int: [4, 16]}}",
    f"search.early_stopping={{type: median, first_rung: {2 * STEP}, min_trials: 1}}",
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    password = secrets.token_hex(12)
    with postgres("127.0.0.1", password, ("optuna",), port):
        yield f"postgresql+psycopg://mlflow:{password}@127.0.0.1:{port}/optuna"


def spec_with(folder: Path, storage: str | None, *overrides: str) -> SweepSpec:
    stored = [f"storage={storage}"] if storage else []
    return load_spec("v05_small", [f"home={folder}", *stored, *OVERRIDES, *overrides])


def result(score: float, rung: int, *, finished: bool = False) -> dict[str, Any]:
    return {"score": score, "rung": float(rung), "finished": finished}


def search(folder: Path, storage: str | None, name: str) -> list[Any]:
    """Run a sweep with two concurrent trials, lose its driver half-way, and return the studies at its end."""
    spec = spec_with(folder, storage)
    first = StudySearcher(spec, create_studies(spec, name, folder))
    jobs = [first.suggest("a"), first.suggest("b")]
    end(first, "a", 0.3)
    jobs.append(first.suggest("c"))
    first.falls_behind("c", result(0.2, STEP))
    end(first, "b", 0.6)
    # The driver is gone: c runs, and another trial was asked for but not handed out.
    study = optuna.load_study(study_name=name, storage=open_storage(storage, folder))
    study.ask()
    second = StudySearcher(spec, load_studies(spec, name, folder))
    assert second.left == 4
    taken = second.suggest("c2")
    assert taken == jobs[2], "the trial under way is handed out again, and once"
    assert not second.falls_behind("c2", result(0.2, STEP)), "a rung that was told is not told again"
    other = second.suggest("d")
    assert other is not None
    assert other["key"] not in {job["key"] for job in jobs if job}
    end(second, "c2", 0.2)
    end(second, "d", 0.7)
    jobs.append(other)
    for score in (float("nan"), 0.8):
        jobs.append(second.suggest(str(score)))
        end(second, str(score), score)
    assert second.suggest("one too many") is None
    keys = [job["key"] for job in jobs if job]
    assert keys == [f"trial-{number:04d}" for number in range(6)]
    studies = load_studies(spec, name, folder)
    return [
        (trial.number, trial.state, trial.params, trial.value, trial.intermediate_values, trial.user_attrs)
        for study in (studies.reference, studies.candidates)
        for trial in study.trials
    ]


def end(searcher: StudySearcher, trial: str, score: float) -> None:
    """Report this score at each of three rungs, unless the trial is stopped before."""
    for rung in (STEP, 2 * STEP, 3 * STEP):
        if searcher.falls_behind(trial, result(score, rung)):
            searcher.on_trial_complete(trial, result(score, rung))
            return
    searcher.on_trial_complete(trial, result(score, 4 * STEP, finished=True))


def test_the_database_holds_what_the_journal_file_holds(url: str, tmp_path: Path) -> None:
    for name in ("file", "database"):
        (tmp_path / name).mkdir()
    held = search(tmp_path / "database", url, "s")
    assert held == search(tmp_path / "file", None, "s")
    states = [state for _, state, *_ in held[1:]]
    assert states.count(TrialState.COMPLETE) == 3
    assert states.count(TrialState.PRUNED) == 1, "what fell behind"
    assert states.count(TrialState.FAIL) == 2, "NaN, and what nobody was given"


def test_trials_asked_for_at_once_are_never_the_same(url: str, tmp_path: Path) -> None:
    """Each client has its own connections, like drivers on several machines."""
    spec = spec_with(tmp_path, url)
    create_studies(spec, "busy", tmp_path)
    together = Barrier(4)

    def client(_: int) -> list[int]:
        study = optuna.load_study(study_name="busy", storage=open_storage(url, tmp_path))
        together.wait(timeout=patience(60))
        numbers = []
        for _ in range(5):
            trial = study.ask()
            trial.report(0.5, step=STEP)
            study.tell(trial, 0.5)
            numbers.append(trial.number)
        return numbers

    with ThreadPoolExecutor(4) as pool:
        numbers = [number for own in pool.map(client, range(4)) for number in own]
    assert sorted(numbers) == list(range(20))
    trials = optuna.load_study(study_name="busy", storage=open_storage(url, tmp_path)).trials
    # The strategy's own values are enqueued. Only the client that asks first gets them.
    own = [trial for trial in trials if "fixed_params" in trial.system_attrs]
    assert len(own) == 1
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len(trials) == 20


def test_a_name_belongs_to_one_of_two_sweeps_that_start_at_once(url: str, tmp_path: Path) -> None:
    spec = spec_with(tmp_path, url)
    open_storage(url, tmp_path)
    together = Barrier(2)

    def start(_: int) -> str:
        together.wait(timeout=patience(60))
        try:
            create_studies(spec, "both", tmp_path)
        except StorageError as refusal:
            return str(refusal)
        return "started"

    with ThreadPoolExecutor(2) as pool:
        started, refusal = sorted(pool.map(start, range(2)))
    assert started == "started"
    assert "holds a study named 'both' already" in refusal
    assert load_studies(spec, "both", tmp_path)
    # Of a sweep in which nothing has run the studies would be made now.
    append(tmp_path, {"event": "trial_started", "trial": "trial-0000", "time": 1.0})
    with pytest.raises(NotFoundError, match="other"):
        load_studies(spec, "other", tmp_path)


def test_a_sweep_goes_on_after_the_server_has_closed_its_connections(url: str, tmp_path: Path) -> None:
    """A server that restarts and a proxy that ends idle connections do this."""
    spec = spec_with(tmp_path, url)
    searcher = StudySearcher(spec, create_studies(spec, "cut", tmp_path))
    searcher.suggest("a")
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as server:
        ended = server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'optuna' "
            "AND pid <> pg_backend_pid()"
        ).fetchall()
    assert ended
    end(searcher, "a", 0.5)
    assert load_studies(spec, "cut", tmp_path).reference.trials[0].state is TrialState.COMPLETE
