"""A cluster of several nodes on this machine: network namespaces, PostgreSQL, MLflow with authentication.

One cluster serves the whole file: a head without CPUs, one node for learners, two for engines. Where
namespaces are not permitted, or with TRIMTAB_LOOPBACK=1, nodes are on loopback addresses and no cable is cut.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import pytest
import requests
import yaml
from site_services import mlflow_server, postgres, postgres_programs, redis
from speed import patience

from cluster.loopback import LoopbackCluster
from cluster.namespaces import NamespaceCluster
from cluster.nodes import LocalCluster, NotPermitted
from trimtab.sweepdir.journal import Tail

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE_S = patience(420.0)
SPEC: dict[str, Any] = {
    "name": "nodes",
    "trial": {
        "steps": 6,
        "rollouts_per_step": 32,
        "task": {"train_prompts": 64, "validation_prompts": 32, "test_prompts": 32},
        "learner": {"lr": 5e-5},
        "evaluation": {"every": 2, "samples": 1},
        "checkpoint_every": 1,
    },
    "reference": {"strategy": {"preset": "dapo", "group_size": 4}},
    "candidates": [{"strategy": "v05", "search": {"alpha": {"float": [0.05, 0.9], "log": True}}}],
    "seeds": [0],
    "search": {"trials": 2},
    "slots": {"count": 1, "learner_resource": "learner", "engine_resource": "engine"},
}


@dataclass
class Site:
    """Everything that a cluster's user has, and what its administrator sees."""

    cluster: LocalCluster
    folder: Path
    mlflow: str
    planted: dict[str, str]
    """Secrets of the cluster, by the variable that holds them."""

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def storage(self) -> str:
        return f"postgresql+psycopg://mlflow@{self.cluster.subnet}.1/optuna"

    def trimtab(
        self, *arguments: str, timeout: float = 600, **environment: str
    ) -> subprocess.CompletedProcess:
        """Run a client on this machine, which has the token and no other secret."""
        kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
        return subprocess.run(
            [sys.executable, "-m", "trimtab", *arguments],
            env={**kept, "HOME": str(self.folder), "COLUMNS": "200", **self.cluster.client, **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=patience(timeout),
        )

    def submit(self, name: str, *options: str, **changes: Any) -> subprocess.CompletedProcess:
        file = self.folder / f"{name}.yaml"
        given = {"home": str(self.home), "storage": self.storage, "tracking": {"uri": self.mlflow}, **changes}
        file.write_text(yaml.safe_dump({**SPEC, **given}))
        asked = ["--name", name, "--address", self.cluster.jobs, "--image", "installed"]
        by_reference = [part for secret in self.planted for part in ("--secret", secret)]
        return self.trimtab("submit", str(file), *asked, *by_reference, *options)

    def events(self, name: str) -> list[dict[str, Any]]:
        folder = self.home / "sweeps" / name
        return list(Tail(folder).read()) if folder.is_dir() else []

    def wait(self, name: str, what: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        deadline = time.monotonic() + PATIENCE_S
        looked = time.monotonic()
        while True:
            events = self.events(name)
            if what(events):
                return events
            over = time.monotonic() > deadline
            if time.monotonic() > looked + 15:
                looked = time.monotonic()
                state = self.trimtab("status", name, "--address", self.cluster.jobs).stdout
                over = over or "running" not in state
            if over:
                said = self.trimtab("logs", name, "--address", self.cluster.jobs)
                pytest.fail(f"{events[-3:]} {said.stdout[-3000:]} {said.stderr}")
            time.sleep(0.2)

    def alive(self) -> list[str]:
        """Return the addresses of the nodes that the head counts as alive."""
        answer = requests.get(
            f"{self.cluster.jobs}/api/v0/nodes?detail=1",
            headers={"Authorization": f"Bearer {self.cluster.token.read_text()}"},
            timeout=patience(30),
        )
        nodes = answer.json()["data"]["result"]["result"]
        return [node["node_ip"] for node in nodes if node["state"] == "ALIVE"]

    def study(self, name: str) -> list[tuple[Any, ...]]:
        """Return parameters, state, value and intermediate values of every trial, the reference first."""
        url = self.storage.replace("mlflow@", f"mlflow:{self.planted['PGPASSWORD']}@")
        storage = optuna.storages.RDBStorage(url)
        return [
            (trial.params, trial.state, trial.value, trial.intermediate_values)
            for study in (f"{name}/reference", name)
            for trial in optuna.load_study(study_name=study, storage=storage).trials
        ]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Site]:
    postgres_programs()
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(tiny_model, folder / "home" / "models" / tiny_model.name)
    planted = {
        "PGPASSWORD": f"Pg-{secrets.token_hex(12)}",
        "MLFLOW_TRACKING_PASSWORD": f"Ml-{secrets.token_hex(12)}",
        "HF_TOKEN": f"hf_{secrets.token_hex(12)}",
    }
    environment = {**planted, "MLFLOW_TRACKING_USERNAME": "admin", "OMP_NUM_THREADS": "1"}
    database = planted["PGPASSWORD"]
    workers = [{"learner": 1.0}, {"engine": 1.0}, {"engine": 1.0}]
    with ExitStack() as stack:
        made = LoopbackCluster if os.environ.get("TRIMTAB_LOOPBACK") else NamespaceCluster
        cluster = made(folder / "nodes", workers, environment=environment)
        try:
            address = stack.enter_context(cluster.network())
        except NotPermitted:
            cluster = LoopbackCluster(folder / "nodes", workers, environment=environment)
            address = stack.enter_context(cluster.network())
        cluster.redis_password = f"Re-{secrets.token_hex(12)}"
        cluster.redis = stack.enter_context(redis(folder, address, cluster.redis_password))
        stack.enter_context(postgres(address, database, ("mlflow", "optuna")))
        served = mlflow_server(folder / "mlflow", address, planted["MLFLOW_TRACKING_PASSWORD"], database)
        url = stack.enter_context(served)
        stack.enter_context(cluster)
        yield Site(cluster, folder, url, planted)


def processes(site: Site, node: str) -> str:
    """Return the titles of a node's processes."""
    found = []
    for pid in site.cluster.pids(node):
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended
            continue
    return "\n".join(found)


def refused(done: subprocess.CompletedProcess, message: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("Error: "), done.stderr
    assert message in done.stderr


def test_bad_input_is_one_message_and_submits_nothing(site: Site, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text(secrets.token_hex(32))
    status = ["status", "nobody", "--address", site.cluster.jobs]
    refused(site.trimtab(*status, RAY_AUTH_TOKEN_PATH=str(wrong)), "refuses this token")
    refused(site.trimtab(*status, RAY_AUTH_MODE="disabled"), "unset RAY_AUTH_MODE")
    refused(site.trimtab(*status), "no sweep named 'nobody'")
    refused(site.submit("large", slots={"count": 9}), "slots.count")
    refused(site.submit("wide", slots={"learner_cpus": 2}), "needs a node with 2 CPU")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "weights.npy").write_bytes(b"0" * 3_000_000)
    limit = ["--working-dir", str(tmp_path / "work"), "--working-dir-limit-mb", "1"]
    refused(site.submit("heavy", *limit), "3.00 MB  weights.npy")
    shown = site.submit("dry", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "submission id: trimtab-dry" in shown.stdout
    assert "PGPASSWORD" in shown.stdout
    assert not any(value in shown.stdout for value in site.planted.values())
    for name in ("large", "wide", "heavy", "dry"):
        assert "no sweep named" in site.trimtab("status", name, "--address", site.cluster.jobs).stderr


def test_another_version_of_ray_is_refused(site: Site) -> None:
    # In its own process, because Ray keeps the first token that a process has used.
    pretend = "import ray; ray.__version__ = '2.59.0'; from trimtab.__main__ import main; main()"
    command = [sys.executable, "-c", pretend, "status", "calm", "--address", site.cluster.jobs]
    environment = {**os.environ, **site.cluster.client}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    refused(done, f"runs Ray {version('ray')}, this client 2.59.0")


def steps(events: list[dict[str, Any]]) -> int:
    return sum(event["event"] == "step" for event in events)


@pytest.fixture(scope="module")
def running(site: Site) -> str:
    """Submit a sweep and return its name once it has made its first step."""
    done = site.submit("calm")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trimtab-calm: submitted" in done.stdout
    site.wait("calm", lambda events: steps(events) > 0)
    return "calm"


def test_learner_and_engine_are_on_nodes_of_their_own(site: Site, running: str) -> None:
    assert "ray::RayTrainWorker" in processes(site, "worker0")
    assert "ray::EngineActor" not in processes(site, "worker0")
    engines = processes(site, "worker1") + processes(site, "worker2")
    assert "ray::EngineActor" in engines
    assert "ray::RayTrainWorker" not in engines


def test_a_name_in_use_is_attached_to_or_refused(site: Site, running: str) -> None:
    again = site.submit(running)
    assert again.returncode == 0, again.stderr
    assert "already running, attached" in again.stdout
    other = site.submit(running, seeds=[7])
    assert other.returncode == 2
    assert other.stderr.startswith("Error: --name: 'calm' is in use")
    state = site.trimtab("status", running, "--address", site.cluster.jobs)
    assert "trimtab-calm: running" in state.stdout, state.stderr


@pytest.fixture(scope="module")
def calm(site: Site, running: str) -> str:
    """Return the same sweep's name once the sweep has finished."""
    done = site.trimtab("logs", running, "--address", site.cluster.jobs, "--follow")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    return running


def test_a_submitted_sweep_finishes_with_the_weights_in_place(site: Site, calm: str) -> None:
    assert [state.name for _, state, _, _ in site.study(calm)] == ["COMPLETE"] * 3
    events = [event for event in site.events(calm) if event["event"] == "step"]
    assert len(events) >= 18  # DAPO may spend a budget of six steps in more
    assert max(event["metrics"]["parity"] for event in events) < 1e-3
    done = site.submit(calm)
    assert done.returncode == 2
    assert "continue it with --resume" in done.stderr


def test_no_secret_is_left_anywhere(site: Site, calm: str) -> None:
    """Nothing that the sweep, Ray or MLflow wrote contains one of the cluster's secrets."""
    values = [*site.planted.values(), site.cluster.token.read_text(), site.cluster.redis_password]
    closets = (site.cluster.token, site.folder / "mlflow" / "secrets")
    looked = 0
    for file in site.folder.rglob("*"):
        if not file.is_file() or any(file.is_relative_to(closet) for closet in closets):
            continue
        content = file.read_bytes()
        looked += 1
        assert [v for v in values if v.encode() in content] == [], f"a secret in {file}"
    assert looked > 100
    for database in ("mlflow", "optuna"):
        dump = subprocess.run(
            [postgres_programs() / "pg_dump", "-h", f"{site.cluster.subnet}.1", "-U", "mlflow", database],
            env={**os.environ, "PGPASSWORD": site.planted["PGPASSWORD"]},
            capture_output=True,
            text=True,
            check=True,
            timeout=patience(60),
        ).stdout
        assert "COPY public" in dump
        assert [value for value in values if value in dump] == []


def engine_node(site: Site) -> str:
    """Return the node that runs the engine."""
    return next(name for name in ("worker1", "worker2") if "ray::EngineActor" in processes(site, name))


def repair(site: Site, node: str) -> None:
    """Do what a cluster's supervisor does: restart a node that the head has given up."""
    alive = site.alive()
    if site.cluster.nodes[node].address not in alive:
        site.cluster.kill(node)
        site.cluster.start(node)


def test_a_sweep_survives_a_partition_a_lost_node_and_a_lost_head(site: Site, calm: str) -> None:
    """Each happens in its own trial, and the study is the same as that of an undisturbed sweep.

    Nodes without a cable skip the partition.
    """
    assert site.submit("storm").returncode == 0
    site.wait("storm", lambda events: in_the_middle(events, 0))

    if site.cluster.can_cut:
        cut = engine_node(site)
        site.cluster.cut(cut)
        time.sleep(30)  # the length of the partition
        site.cluster.reconnect(cut)
        site.wait("storm", lambda events: in_the_middle(events, 1))
        repair(site, cut)
    else:
        site.wait("storm", lambda events: in_the_middle(events, 1))

    site.cluster.kill(engine_node(site))
    site.wait("storm", lambda events: in_the_middle(events, 2))

    site.cluster.kill("head")
    site.cluster.start("head")
    jobs = site.cluster.jobs
    status = site.trimtab("status", "storm", "--address", jobs)
    assert "failed" in status.stdout, "the driver was lost with the head" + status.stdout + status.stderr
    done = site.submit("storm", "--resume", "--follow")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    assert site.study("storm") == site.study(calm)


def test_a_finished_sweep_is_extended_on_the_cluster(site: Site, calm: str) -> None:
    before = site.study(calm)
    done = site.submit(calm, "--extend", "1", "--follow")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    after = site.study(calm)
    assert [row for row in after if row in before] == before
    assert [state.name for _, state, _, _ in after] == ["COMPLETE"] * (len(before) + 1)


def in_the_middle(events: list[dict[str, Any]], trials: int) -> bool:
    """Tell whether `trials` trials have ended and the next one has made two steps."""
    ends = [event["time"] for event in events if event["event"] == "trial_finished"]
    since = max(ends, default=0.0)
    return len(ends) >= trials and steps([e for e in events if e["time"] > since]) >= 2
