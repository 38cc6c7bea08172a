"""Nodes on loopback addresses, which replace network namespaces where those are not permitted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from speed import patience, wait_until

from cluster.loopback import LoopbackCluster
from cluster.nodes import NotPermitted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WHERE = """
import json, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
def where():
    return ray.util.get_node_ip_address()
where = ray.remote(where)
asked = [where.options(num_cpus=0, resources={name: 1}).remote() for name in ("learner", "engine")]
print(json.dumps(ray.get(asked, timeout=float(sys.argv[2]))))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackCluster]:
    folder = tmp_path_factory.mktemp("loopback")
    with LoopbackCluster(folder, [{"learner": 1.0}, {"engine": 1.0}]) as made:
        yield made
    assert not [name for name in made.nodes if made.pids(name)]
    # A process that lost the mark would still name its session.
    assert str(made.sessions) not in commands()


def commands() -> str:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended
            continue
    return "\n".join(found)


def nodes(cluster: LoopbackCluster, token: str) -> requests.Response:
    url = f"{cluster.jobs}/api/v0/nodes?detail=1"
    return requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=patience(30))


def alive(cluster: LoopbackCluster) -> set[str]:
    rows: list[dict[str, Any]] = nodes(cluster, cluster.token.read_text()).json()["data"]["result"]["result"]
    return {row["node_ip"] for row in rows if row["state"] == "ALIVE"}


def test_work_goes_to_the_node_that_offers_what_it_asks_for(cluster: LoopbackCluster) -> None:
    # In its own process, because Ray keeps the first token that a process has used.
    done = subprocess.run(
        [sys.executable, "-c", WHERE, cluster.head, str(patience(120))],
        env={**os.environ, **cluster.client},
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(200),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [cluster.nodes["worker0"].address, cluster.nodes["worker1"].address]


def test_the_token_is_asked_for(cluster: LoopbackCluster) -> None:
    assert nodes(cluster, "0" * 64).status_code in (401, 403)
    assert alive(cluster) == {node.address for node in cluster.nodes.values()}


def test_there_is_no_cable(cluster: LoopbackCluster) -> None:
    with pytest.raises(NotPermitted, match="no cable"):
        cluster.cut("worker0")


def test_a_node_that_is_killed_is_dead_to_the_head_and_comes_back(cluster: LoopbackCluster) -> None:
    lost = cluster.nodes["worker1"].address
    cluster.kill("worker1")
    assert cluster.pids("worker0"), "only that node was killed"
    wait_until(lambda: lost not in alive(cluster), 90)
    cluster.start("worker1")
    wait_until(lambda: len(alive(cluster)) == 3, 90)
