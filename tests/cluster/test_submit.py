"""`trimtab submit` refuses bad input before it contacts a cluster: one message, exit code 2."""

from __future__ import annotations

import shlex
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from trimtab.cli.main import main
from trimtab.errors import SecurityError, SpecError
from trimtab.planning.machine import Machine
from trimtab.remote.submit import Request, prepare
from trimtab.sweepspec.spec import SweepSpec

SPEC: dict[str, Any] = {
    "name": "far",
    "home": "/trimtab",
    "reference": {"strategy": {"preset": "dapo", "group_size": 4}},
    "candidates": [{"strategy": "v05"}],
}


def request(**changes: Any) -> Request:
    spec = SweepSpec.model_validate({**SPEC, **changes.pop("spec", {})})
    return Request(**{"spec": spec, "image": "installed", **changes})


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec": {"home": ".trimtab"}}, "home: '.trimtab' is relative"),
        ({"image": None}, "exactly one of them"),
        ({"pip": Path("requirements.txt")}, "exactly one of them"),
        ({"image": None, "pip": Path("missing.txt")}, "is not a file"),
        ({"working_dir": Path("/nowhere")}, "is not a folder"),
        ({"name": "a/b"}, "is not a valid name"),
        ({"image": "registry/trimtab:1", "working_dir": Path("/tmp")}, "no files into a container"),
        ({"resume": True, "extend": 2}, "leave --resume out"),
        ({"variables": {"A-B": "x"}}, "not the name of a variable"),
    ],
)
def test_a_request_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        prepare(request(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"secrets": ["PGPASSWORD=hunter22"]}, "give the name alone"),
        ({"variables": {"WANDB_API_KEY": "x"}}, "pass --secret WANDB_API_KEY"),
        ({"variables": {"NOTE": "hf_planted_value"}}, r"holds the value of \$HF_TOKEN"),
        ({"spec": {"storage": "postgresql://u:hunter22@db/optuna"}}, "holds a password"),
        ({"spec": {"tracking": {"uri": "http://u:hunter22@mlflow:5000"}}}, "holds a password"),
        ({"spec": {"tracking": {"experiment": "x hf_planted_value"}}}, r"experiment: holds the value of"),
    ],
)
def test_secrets_travel_by_name_only(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted_value")
    with pytest.raises(SecurityError, match=message) as refused:
        prepare(request(**changes))
    assert "hunter22" not in str(refused.value)
    assert "planted" not in str(refused.value)


def test_the_id_and_the_digest_depend_on_the_sweep_alone(tmp_path: Path) -> None:
    first, again = prepare(request()), prepare(request(secrets=["PGPASSWORD"], working_dir=tmp_path))
    assert first.id == again.id == "trimtab-far"
    assert first.digest == again.digest
    assert prepare(request(spec={"seeds": [5]})).digest != first.digest
    assert first.entrypoint == "python -m trimtab sweep trimtab-spec.yaml --name far --address auto"
    grown = prepare(request(capacity=Machine(16, 8, 64_000_000_000), resume=True))
    assert grown.entrypoint == (
        "python -m trimtab resume far --home /trimtab --cpus 16 --gpus 8 --memory-gb 64 --address auto"
    )
    more = prepare(request(extend=2))
    assert more.entrypoint == "python -m trimtab extend far --trials 2 --home /trimtab --address auto"
    assert len({first.digest, more.digest, prepare(request(extend=3)).digest}) == 3
    assert again.runtime_env["env_vars"]["TRIMTAB_REQUIRED_SECRETS"] == "PGPASSWORD"


def test_an_image_takes_the_spec_in_its_command_and_mounts_the_shared_storage(tmp_path: Path) -> None:
    sent = prepare(request(image="registry/trimtab:1", spec={"home": str(tmp_path / "it's"), "seeds": [3]}))
    home = shlex.quote(str(tmp_path / "it's"))
    assert sent.runtime_env["container"] == {
        "image": "registry/trimtab:1",
        "run_options": [f"-v={home}:{home}"],
    }
    write, _, command = sent.entrypoint.partition(" && ")
    assert command == "python -m trimtab sweep /tmp/trimtab-spec.yaml --name far --address auto"
    written = tmp_path / "written.yaml"
    subprocess.run(["sh", "-c", write.replace("/tmp/trimtab-spec.yaml", str(written))], check=True)
    assert written.read_text() == sent.text


@pytest.mark.parametrize(
    ("command", "address", "message"),
    [
        ("submit", "http://127.0.0.1:{port}", "no Ray cluster answers"),
        ("submit", "ray://127.0.0.1:10001", "is not a job API"),
        ("submit", "127.0.0.1:8265", "is not a job API"),
        ("sweep", "127.0.0.1:{port}", "no Ray cluster answers"),
        ("sweep", "http://127.0.0.1:8265", "neither 'auto' nor HOST:PORT"),
    ],
)
def test_no_cluster_at_the_address(
    tmp_path: Path,
    closed_port: int,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    address: str,
    message: str,
) -> None:
    token = tmp_path / "token"
    token.write_text("abc")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(SPEC))
    image = ["--image", "installed"] if command == "submit" else ["--set", f"home={tmp_path / 'home'}"]
    arguments = [command, str(file), *image, "--address", address.format(port=closed_port)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: --address:")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
