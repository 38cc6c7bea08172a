"""A tracking server that asks who is there: MLflow's own basic authentication, a reader and a writer."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from decided import Decided, config_of
from mlflow.server import get_app_client
from services import answers
from speed import wait_until

from trimtab.cli.main import main
from trimtab.sweepspec.load import load_spec
from trimtab.tracking.store import connect
from trimtab.tracking.tracker import Tracker

pytestmark = pytest.mark.slow
ADMIN, READER = "admin", "reader"


@dataclass
class Server:
    """The server's address, a sweep in it, and everybody's password."""

    uri: str
    decided: Decided
    passwords: dict[str, str]

    @contextmanager
    def as_user(self, name: str, password: str | None = None) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_USERNAME", name)
            patch.setenv("MLFLOW_TRACKING_PASSWORD", password or self.passwords[name])
            yield

    def run(self, *arguments: str):
        return CliRunner().invoke(main, [*arguments, "--home", str(self.decided.home)])


@pytest.fixture(scope="module")
def server(tmp_path_factory, empty_store, tiny_model) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("auth")
    shutil.copy(empty_store, path / "mlflow.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    passwords = {name: secrets.token_hex(12) for name in (ADMIN, READER)}
    (path / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{path / 'auth.db'}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 600\n"
    )
    environment = {
        **os.environ,
        "MLFLOW_AUTH_CONFIG_PATH": str(path / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
        "MLFLOW_AUTH_ADMIN_PASSWORD": passwords[ADMIN],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1",
         "--backend-store-uri", f"sqlite:///{path / 'mlflow.db'}", "--host", "127.0.0.1", "--port", str(port),
         "--artifacts-destination", str(path / "artifacts")],
        env=environment, cwd=path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        wait_until(lambda: process.poll() is not None or answers(f"{uri}/health"), 150)
        assert process.poll() is None
        checkpoint = path / "checkpoint-60"
        shutil.copytree(tiny_model, checkpoint / "model")
        found = Server(uri, Decided(path, uri, checkpoint), passwords)
        spec = load_spec("v05_small", [f"home={path}", f"tracking.uri={uri}"])
        found.decided.store("quick", spec)
        for number, gain in enumerate((0.0, 0.03)):
            found.decided.trial("quick", number, config_of(spec, number), range(2), gain)
        with found.as_user(ADMIN):
            found.decided.track("quick")
            get_app_client("basic-auth", tracking_uri=uri).create_user(READER, passwords[READER])
        yield found
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_who_may_read_may_compare(server) -> None:
    with server.as_user(READER):
        done = server.run("compare", "quick")
    assert done.exit_code == 0, done.output
    assert "search only" in done.output


def test_a_wrong_password_is_named_and_costs_nothing(server) -> None:
    """What a sweep measured meanwhile is sent later."""
    with server.as_user(READER, "wrong"):
        done = server.run("compare", "quick")
        assert done.exit_code == 2
        assert "MLFLOW_TRACKING_USERNAME" in done.output
        assert "Traceback" not in done.output
        spec = load_spec("v05_small", [f"home={server.decided.home}", f"tracking.uri={server.uri}"])
        server.decided.store("locked-out", spec)
        server.decided.trial("locked-out", 0, config_of(spec, 0), range(2), 0.0)
        tracker = Tracker(server.decided.folder("locked-out"), server.uri, "locked-out", spec)
        tracker.start()
        (left,) = tracker.close("finished", timeout_s=3)
        assert "metric values" in left
    with server.as_user(ADMIN):
        done = server.run("track", "locked-out")
        assert done.exit_code == 0, done.output
        done = server.run("compare", "locked-out")
    assert done.exit_code == 0, done.output


def test_a_registry_without_permission_registers_nothing(server, tmp_path: Path) -> None:
    promote = ("promote", "quick", "--force", "--name", "guarded", "--folder", str(tmp_path / "promoted"))
    with server.as_user(ADMIN):
        client = connect(server.uri)
        client.create_registered_model("guarded")
    with server.as_user(READER):
        done = server.run(*promote)
    assert done.exit_code == 2
    assert "ermission" in done.output
    assert "ask its administrator for permission" in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "promoted").exists()
    with server.as_user(ADMIN):
        assert list(client.search_model_versions("name = 'guarded'")) == []
        done = server.run(*promote)
        assert done.exit_code == 0, done.output
        version = client.get_model_version_by_alias("guarded", "champion")
    with server.as_user(READER):
        done = server.run("rollback", "guarded")
        assert done.exit_code == 2
    with server.as_user(ADMIN):
        assert client.get_model_version_by_alias("guarded", "champion").version == version.version
