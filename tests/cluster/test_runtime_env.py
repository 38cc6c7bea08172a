"""`submit --pip` and `--image` on a real cluster whose nodes do not have trimtab."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from speed import patience

from cluster.loopback import LoopbackCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parent.parent.parent
UNSET = "TRIMTAB_TEST_UNSET"
"""The job requires this variable, and fails because it is not set. The message shows that trimtab has run."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackCluster]:
    """Start nodes with everything that trimtab needs, but without trimtab."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True, timeout=patience(60)
    )
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # The tests' packages, but not what an editable install adds to them: trimtab.
    path = folder / "venv" / "lib" / version / "site-packages" / "packages.pth"
    path.write_text(sysconfig.get_paths()["purelib"])
    python = str(folder / "venv" / "bin" / "python")
    # Nothing may be downloaded: the packages of the nodes must be enough.
    bare = {"PYTHONPATH": "", "PIP_NO_INDEX": "1"}
    with LoopbackCluster(folder / "nodes", [{}], cpus=4, python=python, environment=bare) as made:
        yield made


def submit(cluster: LoopbackCluster, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    folder = cluster.folder.parent
    spec = {
        "name": name,
        "home": str(folder / "home"),
        "reference": {"strategy": {"preset": "dapo", "group_size": 4}},
        "candidates": [{"strategy": "v05"}],
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return trimtab(cluster, "submit", str(folder / "spec.yaml"), "--secret", UNSET, "--follow", *options)


def trimtab(cluster: LoopbackCluster, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trimtab", *command, "--address", cluster.jobs],
        env={**os.environ, **cluster.client},
        cwd=cluster.folder.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(240),
    )


def test_a_python_without_trimtab_is_told_with_its_fix(cluster: LoopbackCluster) -> None:
    done = submit(cluster, "bare", "--image", "installed")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "No module named trimtab" in done.stdout
    for said in (done, trimtab(cluster, "status", "bare")):
        assert said.stderr.splitlines()[-1].startswith("Fix: the job's `python`"), said.stderr


def test_pip_brings_trimtab_and_code_of_the_user(cluster: LoopbackCluster, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "mine"\nversion = "1.0"\n'
    )
    (tmp_path / "mine" / "mine.py").write_text("")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", tmp_path, ROOT, tmp_path / "mine"], check=True, timeout=patience(120))
    wheels = sorted(tmp_path.glob("*.whl"))
    assert [wheel.name.partition("-")[0] for wheel in wheels] == ["mine", "trimtab"]
    file = tmp_path / "requirements.txt"
    file.write_text("".join(f"{wheel}\n" for wheel in wheels))

    done = submit(cluster, "piped", "--pip", str(file))
    assert done.returncode == 2, done.stdout[-5000:] + done.stderr[-3000:]
    assert f"Error: --secret: {UNSET} not set on the cluster's head" in done.stdout


def test_requirements_that_cannot_be_installed_are_told(cluster: LoopbackCluster, tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text(f"{tmp_path}/trimtab-9.9-py3-none-any.whl\n")
    done = submit(cluster, "broken", "--pip", str(file))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "trimtab-9.9-py3-none-any.whl" in done.stderr


def test_an_image_is_handed_to_podman_which_is_not_here(cluster: LoopbackCluster) -> None:
    done = submit(cluster, "imaged", "--image", "registry.example.com/trimtab:1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "podman" in done.stderr
    assert "cannot be used together" not in done.stderr
