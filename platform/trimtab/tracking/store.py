"""How to reach MLflow: the client, the experiment, and which errors are worth a retry."""

from __future__ import annotations

import logging
import os
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from trimtab.errors import TrackingError
from trimtab.sweepdir.home import SWEEPS, command
from trimtab.tracking import names

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
EXPERIMENT_KIND, MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"
"""Tag by which MLflow's UI opens an experiment on its training runs. Without it, the UI guesses, or asks."""
UI_MODE = "workflowType=machine_learning"
"""Query by which MLflow's UI starts on training runs: otherwise it opens every experiment as GenAI."""
VIEW = "mlflow.sharedViewState."
"""Tags of an experiment under which MLflow's own "save view" keeps a view; a sweep's bears its run's id."""
PERMANENT = frozenset({
    "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST", "NOT_IMPLEMENTED",
})  # fmt: skip
"""Error codes that a retry cannot fix, because the request itself is refused."""
TABLES = frozenset({"experiments", "runs"})
"""Tables of any MLflow database."""
BROKEN = ("malformed", "not a database", "no such table", "no such column", "database schema")
"""Words of SQLite and MLflow about a file that no retry mends."""


def connect(uri: str) -> MlflowClient:
    """Return a client of this store. Its first use creates a SQLite file, or migrates an old one.

    Raises:
        TrackingError: the store is a SQLite file that is damaged or not MLflow's.
    """
    check_file(uri)
    # MLflow's own retries block for minutes, and may repeat a request that was carried out, which leaves a
    # second run. The tracker's retries look first, and know when the sweep is over. A user's values win.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # MLflow would print the address of every run that ends into the live display.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for noisy in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    path = sqlite_path(uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri)


def check_file(uri: str) -> None:
    """Refuse a SQLite store that is damaged or another program's: MLflow would write its tables into it.

    Quick, and without MLflow. A file that is not there, or empty, is one that MLflow may fill.

    Raises:
        TrackingError: names the file and how to get a good one.
    """
    path = sqlite_path(uri)
    if path is None or not path.is_file() or path.stat().st_size == 0:
        return
    try:
        if _is_cut(path):
            raise TrackingError(_lost(path, "is cut short"))
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    except (OSError, sqlite3.Error) as error:
        if "locked" in str(error):
            return  # somebody writes to it
        raise TrackingError(_lost(path, f"cannot be read ({error})")) from None
    if tables and not tables & TABLES:
        raise TrackingError(_lost(path, f"is not MLflow's: it holds {', '.join(sorted(tables)[:3])}"))


def _is_cut(path: Path) -> bool:
    """Tell whether a SQLite file is shorter than its header says (www.sqlite.org/fileformat.html)."""
    with path.open("rb") as file:
        header = file.read(100)
    if not header.startswith(b"SQLite format 3\0"):
        return False
    if len(header) < 100:
        return True
    numbers = [int.from_bytes(header[at : at + 4]) for at in (24, 28, 92)]
    changed, pages, counted = numbers
    size = int.from_bytes(header[16:18])
    # The number of pages holds if it was counted at the last change. A page of 64 KB is written as 1.
    return changed == counted and path.stat().st_size < pages * (65536 if size == 1 else size)


def _lost(path: Path, why: str) -> str:
    """Return the message about a SQLite file that is no use."""
    here = path.parent if (path.parent / SWEEPS).is_dir() else None
    again = command("track NAME", here) if here else "trimtab track NAME"
    away = f"mv {shlex.quote(str(path))} {shlex.quote(str(path))}.bad"
    return (
        f"{path} {why}; restore it from a backup, or move it away ({away}) and send what each sweep recorded "
        f"to a new one: {again}"
    )


def recorded_sweeps(uri: str) -> list[str] | None:
    """Return the names of the sweeps in a SQLite store, without MLflow, which takes many seconds to load.

    None: it is no SQLite store, or cannot be read so.
    """
    return _column(uri, "SELECT DISTINCT value FROM tags WHERE key = ? ORDER BY value", names.SWEEP)


def registered_models(uri: str) -> list[str] | None:
    """Return the names of the models in a SQLite store; None as in `recorded_sweeps`."""
    return _column(uri, "SELECT name FROM registered_models ORDER BY name")


def saved_views(uri: str, most: int) -> list[tuple[str, str]]:
    """Return the newest sweeps with a saved chart view: their names and the paths of the views.

    Empty as well where `recorded_sweeps` is None.
    """
    query = (
        "SELECT runs.name, runs.run_uuid, runs.experiment_id FROM experiment_tags JOIN runs "
        "ON experiment_tags.key = ? || runs.run_uuid ORDER BY runs.start_time DESC LIMIT ?"
    )
    found = _rows(uri, query, VIEW, most) or []
    return [(str(name), view_path(str(run_id), str(experiment))) for name, run_id, experiment in found]


def _column(uri: str, query: str, *values: str) -> list[str] | None:
    rows = _rows(uri, query, *values)
    return None if rows is None else [str(row[0]) for row in rows]


def _rows(uri: str, query: str, *values: str | int) -> list[tuple[object, ...]] | None:
    path = sqlite_path(uri)
    if path is None or not path.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5)) as store:
            return list(store.execute(query, values))
    except sqlite3.Error:
        return None  # locked, or not MLflow's: it will say so itself


def transient_errors() -> tuple[type[Exception], ...]:
    """Return what a store raises that is down, slow or full.

    A MlflowException is transient only if it is not `is_permanent`.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, RequestException, SQLAlchemyError, OSError)


def is_permanent(error: Exception) -> bool:
    """Tell whether a retry of the same request would fail again."""
    return getattr(error, "error_code", None) in PERMANENT


def refusal(error: Exception) -> str | None:
    """Return the fix for a server that refuses this user; None for any other error."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    code = getattr(error, "error_code", "")
    if status == 401 or code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
        return "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    if status == 403 or code == "PERMISSION_DENIED":
        return "ask its administrator for permission"
    return None


def unreachable(uri: str, error: Exception) -> str:
    """Return the message about a store that raised one of `transient_errors`."""
    advice = refusal(error)
    if advice is not None:
        return f"{uri} refused: {error}; {advice}"
    path = sqlite_path(uri)
    if path is None:
        return f"{uri} does not answer: {error}; start it, or check tracking.uri"
    why = str(error).splitlines()[0]
    if any(word in str(error) for word in BROKEN):
        return _lost(path, f"cannot be read ({why})")
    return f"{path} does not answer: {why}; see that it may be written and that its disk has space"


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite store, or None for every other kind of store."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def view_path(run_id: str, experiment_id: str) -> str:
    """Return the path of a sweep's chart view behind the address of an MLflow UI."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={run_id}&compareRunsMode=CHART&{UI_MODE}"


def ensure_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """Return the id of an experiment, and create it if needed. Two sweeps may call this at the same time."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        experiment_id = str(found.experiment_id)
        # An experiment of an earlier version has none; another kind was chosen by a user, who wins.
        if EXPERIMENT_KIND not in found.tags:
            client.set_experiment_tag(experiment_id, EXPERIMENT_KIND, MODEL_TRAINING)
        return experiment_id
    path = sqlite_path(uri)
    # Without a server, MLflow would put artifacts into ./mlruns of the current working directory.
    location = (path.resolve().parent / "artifacts").as_uri() if path else None
    try:
        tags = {EXPERIMENT_KIND: MODEL_TRAINING}
        return str(client.create_experiment(name, artifact_location=location, tags=tags))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        raced = client.get_experiment_by_name(name)
        if raced is None:
            raise
        return str(raced.experiment_id)
