"""The MLflow UI of a tracking store, on the loopback address."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import FrameType

from trimtab.errors import NotFoundError, SpecError
from trimtab.tracking.store import UI_MODE, check_file, saved_views, sqlite_path

HOST = "127.0.0.1"
NEWEST = 3
"""Sweeps whose saved views are named when the UI starts."""


def command(uri: str, port: int) -> list[str]:
    """Return the server's command line."""
    server = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    path = sqlite_path(uri)
    if path is not None:
        server += ["--artifacts-destination", str(path.parent / "artifacts")]
    return [*server, "--host", HOST, "--port", str(port), "--workers", "1"]


def serve(uri: str, home: Path, port: int) -> int:
    """Run the server until it is interrupted, and return its exit code.

    A store that is itself a server has its own UI, so only its address is printed.

    Raises:
        NotFoundError: Nothing has been tracked yet.
        TrackingError: The store is a file that is damaged or not MLflow's.
        SpecError: The port is in use.
    """
    if uri.startswith(("http://", "https://")):
        print(f"the tracking store serves its own UI: {uri}")
        return 0
    path = sqlite_path(uri)
    if path is not None and not path.is_file():
        raise NotFoundError(f"no tracking store at {path}; run a sweep first, or name its folder with --home")
    check_file(uri)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise SpecError(f"--port: {port} cannot be used ({error.strerror}); choose another") from None
    print(f"MLflow UI: http://{HOST}:{port}/#/experiments?{UI_MODE}  (Ctrl-C ends it)", flush=True)
    for sweep, view in saved_views(uri, NEWEST):
        print(f"  {sweep}, curves at equal rollouts: http://{HOST}:{port}/{view}", flush=True)
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": os.environ.get("MLFLOW_DISABLE_TELEMETRY", "true"),
        # Background jobs of MLflow's GenAI features would start several more processes.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    server = subprocess.Popen(command(uri, port), env=environment, cwd=home)
    # A shell that starts a process in the background makes it ignore SIGINT, so set both handlers.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        return server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
