"""Tokens and secrets: switch on Ray's authentication, and keep secrets out of specs and jobs.

docs/security.md says what these checks protect against, and what they do not.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trimtab.errors import SecurityError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|(API|PRIVATE|ACCESS)_?KEY", re.IGNORECASE)
"""Names of variables whose values are secrets."""


def prepare_ray_auth(environment: MutableMapping[str, str] | None = None, *, create: bool = True) -> None:
    """Switch on Ray's token authentication. Call this before Ray starts or joins a cluster.

    Without a token and a mode, anybody who reaches Ray's ports can use it: its GCS and raylet listen on every
    address. The token is, in Ray's own order, RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, or
    ~/.ray/auth_token.

    Args:
        environment: Variables to read and set; default: those of this process.
        create: Whether to create ~/.ray/auth_token, readable by its owner only, if there is no token.

    Raises:
        SecurityError: Authentication is switched off, or there is no token and `create` is false.
    """
    env = os.environ if environment is None else environment
    mode = env.get(MODE, "token")
    if mode.lower() != "token":
        raise SecurityError(
            f"{MODE}={mode}: trimtab starts and joins only authenticated Ray clusters; unset {MODE}"
        )
    env[MODE] = "token"
    if env is os.environ and "ray" in sys.modules:
        # Ray reads the mode once, on import. Its own init() rereads it with this call.
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")
    if env.get(TOKEN, "").strip():
        return
    if path := env.get(TOKEN_PATH):
        _check_token(Path(path).expanduser(), f"{TOKEN_PATH}={path}")
        return
    file = Path(env.get("HOME", "~")).expanduser() / ".ray" / "auth_token"
    if create:
        _make_token(file)
    elif not file.is_file():
        raise SecurityError(
            f"no token for the cluster: {file} does not exist; copy the cluster's token there, or name a "
            f"file with {TOKEN_PATH}"
        )
    _check_token(file, str(file))


def _make_token(file: Path) -> None:
    """Create the token unless it exists. If two processes do so at once, both end up with the same token."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as opened:
            opened.write(secrets.token_hex(32))
        try:
            os.link(draft, file)
        except FileExistsError:
            return
    finally:
        draft.unlink()


def _check_token(file: Path, what: str) -> None:
    """Check that the file holds a token, and make it readable by its owner only.

    Raises:
        SecurityError: The file is missing or empty.
    """
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        empty = not file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SecurityError(
            f"{what}: the token cannot be read ({error.strerror}); copy the cluster's token there"
        ) from None
    if empty:
        raise SecurityError(f"{what}: the file is empty; put the cluster's token into it")
    # Ray's own commands write the file with the umask's default, which usually lets everybody read it.
    if mode & 0o077 and os.access(file, os.W_OK) and file.stat().st_uid == os.geteuid():
        file.chmod(0o600)


def check_url(field: str, url: str | None) -> None:
    """Refuse a URL that holds a password: specs are stored, logged and shown.

    Raises:
        SecurityError: `url` holds a password.
    """
    if url is None or "://" not in url:
        return
    try:
        password = urlsplit(url).password
    except ValueError:
        return  # not a valid URL; the code that opens it reports that
    if password is not None:
        raise SecurityError(
            f"{field}: the address holds a password, which would be stored; leave it out and "
            f"set {_variable(url)} where the sweep runs"
        )


def _variable(url: str) -> str:
    if url.startswith("postgres"):
        return "PGPASSWORD, or a password file named by PGPASSFILE,"
    return "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


def secret_values(environment: MutableMapping[str, str] | None = None) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of every variable that holds a secret. Values under 8 characters are skipped."""
    env = os.environ if environment is None else environment
    for name, value in env.items():
        if SECRET_NAME.search(name) and len(value) >= 8 and not name.endswith(("_PATH", "_FILE")):
            yield name, value


def check_plain(where: str, values: Any) -> None:
    """Refuse a document that contains the value of one of this environment's secrets.

    Args:
        where: Name of the document in the message, such as `spec`.
        values: The document as nested dicts, lists and strings.

    Raises:
        SecurityError: A string contains a secret; the message has its path and the variable's name.
    """
    known = list(secret_values())

    def walk(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{path}.{key}", item)
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                walk(f"{path}.{index}", item)
        elif isinstance(value, str):
            for name, secret in known:
                if secret in value:
                    raise SecurityError(
                        f"{path}: holds the value of ${name}, and secrets must not be written down; leave it "
                        f"out and let the cluster set {name}"
                    )

    walk(where, values)
