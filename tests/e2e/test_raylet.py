"""A raylet that is killed in the middle of a trial: the trial goes on elsewhere, from its checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState
from outcome import curves, ended
from speed import patience

from trimtab.sweepdir import journal


@pytest.fixture
def nodes(home) -> Iterator[tuple[str, set[int]]]:
    """Address of a cluster of three nodes, and the pids of their raylets."""
    script = Path(__file__).with_name("three_nodes.py")
    cluster = subprocess.Popen(
        [sys.executable, str(script)],
        env=home.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert cluster.stdout is not None
    address, *pids = (cluster.stdout.readline().strip() for _ in range(4))
    yield address, {int(pid) for pid in pids}
    cluster.communicate(timeout=patience(120))


def raylet_of_the_engine(raylets: set[int]) -> int:
    for raylet in raylets:
        if any("EngineActor" in " ".join(child.cmdline()) for child in psutil.Process(raylet).children()):
            return raylet
    pytest.fail("no node holds the engine")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_trial_outlives_the_raylet_of_its_engine(home, nodes) -> None:
    address, raylets = nodes
    spec = home.write(
        trial={**home.spec["trial"], "checkpoint_every": 1},
        seeds=[0],
        search={"trials": 1},
        slots={"count": 1, "learner_resource": "learner", "engine_resource": "engine"},
    )
    sweep = home.start("sweep", str(spec), "--address", address)
    assert sweep.stdout is not None
    said = []
    for line in sweep.stdout:
        said.append(line)
        if line.startswith("1 ") and "after 64" in line:
            os.kill(raylet_of_the_engine(raylets), signal.SIGKILL)
            break
    rest, _ = sweep.communicate(timeout=patience(400))
    assert sweep.returncode == 0, "".join(said) + rest

    assert [state for state, *_ in ended(home, "small")] == [TrialState.COMPLETE] * 2
    events = journal.read(home.path / "sweeps" / "small", "trial-0001")
    assert {e["cause"] for e in events if e["event"] == "retry"} == {"lost"}
    done = [e["step"] for e in events if e["event"] == "step"]
    assert sorted(set(done)) == [1, 2, 3, 4, 5, 6]
    assert len(done) <= 8, "a checkpoint follows each step"
    for points in curves(home, "small").values():
        rollouts = [spent for spent, _ in points]
        assert rollouts[0] == 0
        assert len(set(rollouts)) == len(rollouts) == 4, "no hole and no duplicate"
