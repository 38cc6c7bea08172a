"""The MLflow server as this project ships it: PostgreSQL, S3 artifacts, basic authentication, no defaults.

Every secret is read from a file in TRIMTAB_SECRETS (default /run/secrets), where compose and Kubernetes mount
it. It reaches MLflow through the environment and not through a command line, which any process may read.

| file             | what |
|------------------|------|
| admin-password   | of MLflow's user `admin`; at least 12 characters and none that has ever been a default |
| session-key      | signs MLflow's sessions; at least 32 characters |
| pg-password      | of the database user (libpq's PGPASSWORD) |
| s3-access-key, s3-secret-key | of the artifact store; not needed when artifacts are files |

Settings: TRIMTAB_DATABASE (postgresql://mlflow@postgres/mlflow, without a password), TRIMTAB_ARTIFACTS
(s3://mlflow or a folder), MLFLOW_S3_ENDPOINT_URL. This file is copied into the image alone, so it may import
only the standard library, MLflow and boto3.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

SHORTEST_PASSWORD = 12
SHORTEST_KEY = 32
DEFAULTS = ("password", "changeme", "change-me", "admin", "mlflow", "secret", "example", "12345678")
"""Parts of passwords that nobody chose."""


class Refused(Exception):
    """The server must not start with this configuration."""


def secret(folder: Path, name: str, shortest: int) -> str:
    """Read a secret from its file.

    Raises:
        Refused: The file is missing, or its secret is short or looks like a default.
    """
    file = folder / name
    if not file.is_file():
        raise Refused(f"{file} is missing; mount the secret {name!r} there")
    value = file.read_text(encoding="utf-8").strip()
    if len(value) < shortest:
        raise Refused(f"{file} holds {len(value)} characters; {name} needs at least {shortest}")
    for default in DEFAULTS:
        if default in value.lower():
            raise Refused(f"{file} contains {default!r}: a default is not a secret; make a random one")
    return value


def environment(folder: Path, database: str, artifacts: str) -> dict[str, str]:
    """Return the variables of the server's process.

    Raises:
        Refused: A secret is missing or weak, or `database` holds a password.
    """
    if urlsplit(database).password:
        raise Refused("TRIMTAB_DATABASE holds a password; leave it out and mount the secret 'pg-password'")
    variables = {
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": secret(folder, "admin-password", SHORTEST_PASSWORD),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secret(folder, "session-key", SHORTEST_KEY),
        "PGPASSWORD": secret(folder, "pg-password", SHORTEST_PASSWORD),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Background jobs of MLflow's GenAI features would start several more processes.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    if artifacts.startswith("s3://"):
        variables["AWS_ACCESS_KEY_ID"] = secret(folder, "s3-access-key", 8)
        variables["AWS_SECRET_ACCESS_KEY"] = secret(folder, "s3-secret-key", SHORTEST_PASSWORD)
    return variables


def write_auth_config(file: Path, database: str) -> None:
    """Write MLflow's configuration of users and permissions.

    They are stored in the same PostgreSQL database, and nobody may do anything by default.
    """
    file.write_text(
        "[mlflow]\n"
        "default_permission = NO_PERMISSIONS\n"
        f"database_uri = {database}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "grant_default_workspace_access = false\n",
        encoding="utf-8",
    )


def make_bucket(artifacts: str) -> None:
    """Create the artifact bucket unless it exists. Waits a minute for a store that is still starting."""
    import boto3
    from botocore.exceptions import ClientError, EndpointConnectionError

    store = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
    bucket = urlsplit(artifacts).netloc
    for attempt in range(30):
        try:
            store.create_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise
        except EndpointConnectionError:
            if attempt == 29:
                raise
            time.sleep(2)
            continue
        return


def main() -> int:
    """Replace this process by the server. Returns only if the server must not start."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--allowed-hosts", default="localhost,localhost:*,127.0.0.1,127.0.0.1:*")
    options = parser.parse_args()
    database = os.environ.get("TRIMTAB_DATABASE", "postgresql://mlflow@postgres/mlflow")
    artifacts = os.environ.get("TRIMTAB_ARTIFACTS", "s3://mlflow")
    try:
        variables = environment(Path(os.environ.get("TRIMTAB_SECRETS", "/run/secrets")), database, artifacts)
    except Refused as refused:
        print(f"Error: {refused}", file=sys.stderr)
        return 2
    config = Path.home() / "basic_auth.ini"
    write_auth_config(config, database)
    os.environ.update(variables, MLFLOW_AUTH_CONFIG_PATH=str(config))
    if artifacts.startswith("s3://"):
        make_bucket(artifacts)
    server = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"]
    server += ["--host", options.host, "--port", str(options.port), "--workers", str(options.workers)]
    server += ["--backend-store-uri", database, "--artifacts-destination", artifacts]
    server += ["--allowed-hosts", options.allowed_hosts]
    return os.execv(sys.executable, server)


if __name__ == "__main__":
    sys.exit(main())
