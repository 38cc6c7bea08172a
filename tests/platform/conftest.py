"""A sweep's journal written by hand, and a real MLflow store to record it in."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimtab.sweepdir.journal import append
from trimtab.sweepspec.load import load_spec
from trimtab.sweepspec.spec import SweepSpec
from trimtab.tracking.store import connect

START_S = 1_700_000_000.0


class Journal:
    """Writes what a broker would, for runs whose accuracies the test chooses."""

    def __init__(self, folder: Path, spec: SweepSpec) -> None:
        self.folder = folder
        self.spec = spec
        self._time = START_S

    def event(self, trial: str, event: str, **fields: Any) -> None:
        self._time += 1.0
        append(self.folder, {"event": event, "trial": trial, "time": self._time, **fields})

    def start(self, trial: str, number: int = 0, **searched: Any) -> None:
        reference = number == 0
        self.event(
            trial,
            "trial_started",
            role="reference" if reference else "candidate",
            number=number,
            label="dapo" if reference else f"v05-{number}",
            config=self.spec.reference_config().model_dump(mode="json"),
            searched=searched,
            seeds=list(self.spec.seeds),
        )

    def run(
        self, trial: str, seed: int, accuracies: Sequence[float], status: str | None = "finished"
    ) -> None:
        """One evaluation at 0 rollouts and one after each ten steps; a step event before each."""
        self.event(trial, "stage", seed=seed, stage="training")
        for index, accuracy in enumerate(accuracies):
            self.point(trial, seed, index, accuracy)
        if status is not None:
            self.event(trial, "run_finished", seed=seed, status=status, error=None, checkpoint=None)

    def point(self, trial: str, seed: int, index: int, accuracy: float) -> None:
        """The evaluation after ten times `index` steps, and the last of those."""
        spent = {
            "step": 10 * index,
            "rollouts": 1280 * index,
            "tokens": 5000 * index,
            "seconds": 2.0 * index,
        }
        if index:
            metrics = {"reward": accuracy, "strategy/prior": 0.5}
            self.event(trial, "step", seed=seed, **spent, metrics=metrics)
        metrics = {"accuracy": accuracy, "answers": 1024.0}
        self.event(trial, "evaluation", seed=seed, split="validation", **spent, metrics=metrics)

    def finish(self, trial: str, status: str = "finished", error: str | None = None) -> None:
        self.event(trial, "trial_finished", status=status, score=0.5, error=error)


@pytest.fixture
def spec(tmp_path: Path) -> SweepSpec:
    return load_spec("v05_small", [f"home={tmp_path / 'home'}", "trial.learner.lr=5e-5"])


@pytest.fixture
def raw(spec: SweepSpec) -> dict[str, Any]:
    """The same spec as the mapping that a user's file holds, to be spoilt."""
    mapping: dict[str, Any] = yaml.safe_load(spec.text())
    return mapping


@pytest.fixture
def journal(tmp_path: Path, spec: SweepSpec) -> Journal:
    folder = tmp_path / "home" / "sweeps" / "v05_small"
    folder.mkdir(parents=True)
    return Journal(folder, spec)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables made: making them takes seconds, copying does not."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def store_uri(tmp_path: Path, empty_store: Path) -> str:
    file = tmp_path / "home" / "mlflow.db"
    file.parent.mkdir(exist_ok=True)
    shutil.copy(empty_store, file)
    return f"sqlite:///{file}"
