"""Tokens exist before Ray starts, servers have no default passwords, and secrets are not stored."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster import mlflow_server
from trimtab import api
from trimtab.errors import SecurityError
from trimtab.security import check_plain, check_url, prepare_ray_auth
from trimtab.sweepspec.load import load_spec

PASSWORD = "Kq3-vTz9-mW7x"
KEY = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"


def test_the_token_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    environments = [{"HOME": str(tmp_path)} for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(prepare_ray_auth, environments))
    file = tmp_path / ".ray" / "auth_token"
    first = file.read_text()
    assert len(first) == 64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["auth_token"]
    assert all(environment["RAY_AUTH_MODE"] == "token" for environment in environments)
    prepare_ray_auth({"HOME": str(tmp_path)})
    assert file.read_text() == first


def test_a_token_that_others_may_read_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("abc")
    file.chmod(0o644)
    prepare_ray_auth({"RAY_AUTH_TOKEN_PATH": str(file)}, create=False)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "unset RAY_AUTH_MODE"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, "cannot be read"),
        ({}, "no token for the cluster"),
    ],
)
def test_ray_without_authentication_is_refused(
    tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(SecurityError, match=message):
        prepare_ray_auth({"HOME": str(tmp_path), **environment}, create=False)
    assert not (tmp_path / ".ray").exists()


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        ("postgresql+psycopg://optuna:hunter22@db/optuna", "PGPASSFILE"),
        ("https://admin:hunter22@mlflow.example.com", "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_an_address_with_a_password_is_refused_and_not_repeated(url: str, variable: str) -> None:
    with pytest.raises(SecurityError, match=variable) as refused:
        check_url("storage", url)
    assert "hunter22" not in str(refused.value)
    check_url("storage", url.replace(":hunter22", ""))
    check_url("storage", None)


def test_the_value_of_a_secret_is_found_in_a_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted_value")
    with pytest.raises(SecurityError, match=r"spec\.trial\.task\.1: .*HF_TOKEN") as refused:
        check_plain("spec", {"trial": {"task": ["fine", "x-hf_planted_value-x"]}})
    assert "hf_planted_value" not in str(refused.value)
    check_plain("spec", {"trial": {"task": ["fine"]}})


def test_no_sweep_starts_with_a_secret_in_its_spec(tmp_path: Path) -> None:
    spec = load_spec("v05_small", [f"home={tmp_path}", "storage=postgresql://u:hunter22@127.0.0.1:9/x"])
    with pytest.raises(SecurityError, match="PGPASSFILE"):
        api.sweep(spec)
    assert list(tmp_path.iterdir()) == []


def secrets_folder(path: Path, **changes: str) -> Path:
    values = {"admin-password": PASSWORD, "session-key": KEY, "pg-password": PASSWORD}
    for name, value in {**values, **{key.replace("_", "-"): value for key, value in changes.items()}}.items():
        (path / name).write_text(value)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"admin_password": "password1234"}, "contains 'password'"),
        ({"admin_password": "Change-Me-2026!"}, "contains 'change-me'"),
        ({"admin_password": "short"}, "needs at least 12"),
        ({"session_key": ""}, "session-key"),
    ],
)
def test_the_mlflow_server_refuses_defaults(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    folder = secrets_folder(tmp_path, **changes)
    with pytest.raises(mlflow_server.Refused, match=message):
        mlflow_server.environment(folder, "postgresql://mlflow@db/mlflow", "/artifacts")


def test_the_mlflow_server_takes_secrets_from_files_alone(tmp_path: Path) -> None:
    folder = secrets_folder(tmp_path)
    variables = mlflow_server.environment(folder, "postgresql://mlflow@db/mlflow", "/artifacts")
    assert variables["MLFLOW_AUTH_ADMIN_PASSWORD"] == PASSWORD
    with pytest.raises(mlflow_server.Refused, match="s3-access-key"):
        mlflow_server.environment(folder, "postgresql://mlflow@db/mlflow", "s3://mlflow")
    with pytest.raises(mlflow_server.Refused, match="holds a password"):
        mlflow_server.environment(folder, f"postgresql://mlflow:{PASSWORD}@db/mlflow", "/artifacts")
