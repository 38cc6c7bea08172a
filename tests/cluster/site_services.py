"""Real services of a cluster on a given address: PostgreSQL, MLflow with authentication, Redis."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from services import answers
from speed import patience, wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
START_S = 120.0


def postgres_programs() -> Path:
    """Return the folder of PostgreSQL's server programs (not on Debian's PATH), or skip the test."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return found[-1]


@contextmanager
def postgres(address: str, password: str, databases: tuple[str, ...], port: int = 5432) -> Iterator[int]:
    """Run a PostgreSQL server for the user `mlflow` that requires passwords, and yield its port."""
    programs = postgres_programs()
    # PostgreSQL refuses to run as root, and other users cannot read pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="trimtab-pg-", dir="/tmp"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        as_user = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    key = folder / "key"
    key.write_text(password)
    key.chmod(0o644)

    def run(*command: str) -> None:
        done = subprocess.run(
            [*as_user, *command],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=patience(START_S),
        )
        assert done.returncode == 0, done.stdout + done.stderr

    data = folder / "data"
    run(
        str(programs / "initdb"), "-D", str(data), "-U", "mlflow", "--pwfile", str(key),
        "--auth-local=trust", "--auth-host=scram-sha-256",
    )  # fmt: skip
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 0.0.0.0/0 scram-sha-256\n")
    settings = {"listen_addresses": address, "port": port, "max_connections": 200, "fsync": "off"}
    settings["unix_socket_directories"] = str(folder)
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    run(str(programs / "pg_ctl"), "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        for database in databases:
            run(str(programs / "createdb"), "-h", str(folder), "-p", str(port), "-U", "mlflow", database)
        yield port
    finally:
        run(str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


@contextmanager
def mlflow_server(folder: Path, address: str, password: str, database_password: str) -> Iterator[str]:
    """Run cluster/mlflow_server.py as the image does, with artifacts in a folder, and yield its URL."""
    closet = folder / "secrets"
    closet.mkdir(parents=True)
    values = {
        "admin-password": password,
        "session-key": secrets.token_hex(24),
        "pg-password": database_password,
    }
    for name, value in values.items():
        (closet / name).write_text(value)
    url = f"http://{address}:5000"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TRIMTAB_SECRETS": str(closet),
        "TRIMTAB_DATABASE": f"postgresql://mlflow@{address}/mlflow",
        "TRIMTAB_ARTIFACTS": str(folder / "artifacts"),
    }
    command = [
        sys.executable,
        str(ROOT / "cluster" / "mlflow_server.py"),
        "--host",
        address,
        "--workers",
        "1",
    ]
    command += ["--allowed-hosts", f"{address}:5000"]
    with (folder / "mlflow.log").open("w") as log:
        server = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until(lambda: server.poll() is not None or answers(f"{url}/health"), START_S)
        assert server.poll() is None, (folder / "mlflow.log").read_text()[-3000:]
        yield url
    finally:
        _end(server)


@contextmanager
def redis(folder: Path, address: str, password: str) -> Iterator[str]:
    """Run a Redis with a password, given through standard input, and yield HOST:PORT."""
    if shutil.which("redis-server") is None:
        pytest.skip("Redis is not installed (Debian: apt-get install redis-server)")
    settings = f"bind {address}\nport 6380\nrequirepass {password}\nsave ''\nappendonly no\n"
    with (folder / "redis.log").open("w") as log:
        server = subprocess.Popen(
            ["redis-server", "-"], stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=folder, text=True
        )
    assert server.stdin is not None
    with server.stdin as told:
        told.write(settings)
    try:
        wait_until(lambda: server.poll() is not None or _listens(address, 6380), START_S)
        assert server.poll() is None, (folder / "redis.log").read_text()
        yield f"{address}:6380"
    finally:
        server.terminate()
        server.wait(timeout=patience(20))


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True


def _end(server: subprocess.Popen[bytes]) -> None:
    """Kill a server and its workers, which share its session."""
    os.killpg(server.pid, 15)
    try:
        server.wait(timeout=patience(20))
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, 9)
        server.wait(timeout=patience(20))
