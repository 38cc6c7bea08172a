"""A driver that is killed: nothing that finished is lost, the rest ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import TrialState
from outcome import curves, ended

from trimtab import records

SPEC: dict[str, Any] = {"seeds": [0, 1], "slots": {"count": 1}}
PATIENCE_S = 180
"""Should the guardian miss Ray's agents (their first two seconds), they end by themselves after 61 s."""


def write(home, **trial: object):
    return home.write(trial={**home.spec["trial"], "checkpoint_every": 1, **trial}, **SPEC)


def kill_at(home, process: subprocess.Popen[str], here: Callable[[str], bool]) -> None:
    """SIGKILL the driver at the first line of its output that is the place; its processes end with it."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if here(line):
            break
    else:
        pytest.fail("the sweep never came to the place: " + "".join(said))
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while left := home.processes():
        assert time.monotonic() < deadline, f"the killed driver left {left}"
        time.sleep(0.5)


def finish(home, name: str) -> None:
    status = json.loads(home.run("status", name, "--home", str(home.path), "--json").stdout)
    assert status["status"] == "interrupted"
    done = home.run("resume", name, "--home", str(home.path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert home.processes() == []
    status = json.loads(home.run("status", name, "--home", str(home.path), "--json").stdout)
    assert (status["status"], len(status["trials"])) == ("finished", 3)
    assert {trial["status"] for trial in status["trials"]} == {"finished"}


@pytest.mark.timeout(900)
def test_a_killed_driver_loses_no_trial_and_repeats_no_step_before_the_checkpoint(home) -> None:
    spec = write(home)
    process = home.start("sweep", str(spec))
    kill_at(home, process, lambda line: line.startswith("1 ") and "seed 1" in line and "after 64" in line)
    (reference, *_) = ended(home, "small")
    assert reference[0] is TrialState.COMPLETE
    journal = home.path / "sweeps" / "small" / "records" / "trial-0001.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"event": "step", "se')  # as if the disk had been cut off in the middle of a line

    finish(home, "small")

    assert ended(home, "small")[0] == reference
    assert all(state is TrialState.COMPLETE for state, *_ in ended(home, "small"))
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    steps = [(e["seed"], e["step"]) for e in events if e["event"] == "step"]
    repeated = len(steps) - len(set(steps))
    assert repeated <= 1, "a checkpoint follows each step: at most the one that was cut off is repeated"
    assert {seed: max(s for k, s in steps if k == seed) for seed in (0, 1)} == {0: 6, 1: 6}
    for (trial, seed), points in curves(home, "small").items():
        events = records.read(home.path / "sweeps" / "small", trial)
        evaluated = {e["rollouts"] for e in events if e["event"] == "evaluation" and str(e["seed"]) == seed}
        assert [rollouts for rollouts, _ in points] == sorted(evaluated), "no hole and no duplicate"
        assert len(points) == 4


@pytest.fixture(scope="module")
def whole(lasting_home):
    """What a sweep that nobody disturbed ends with: its studies and its curves."""
    assert lasting_home.run("sweep", str(write(lasting_home)), "--name", "whole").returncode == 0
    return ended(lasting_home, "whole"), curves(lasting_home, "whole")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "here",
    [
        lambda line: "starting" in line,
        lambda line: line.startswith("0 ") and "started" in line,
        lambda line: line.startswith("0 ") and "seed 0" in line and "after 0 " not in line,
        lambda line: line.startswith("0 ") and ": finished" in line,
        lambda line: line.startswith("2 ") and "seed 1" in line and "after 0 " not in line,
    ],
    ids=["before Ray", "first trial", "mid-run", "between trials", "last trial"],
)
def test_a_sweep_killed_at_any_stage_ends_like_an_undisturbed_one(whole, home, here) -> None:
    spec = write(home)
    kill_at(home, home.start("sweep", str(spec), "--name", "killed"), here)
    finish(home, "killed")
    assert (ended(home, "killed"), curves(home, "killed")) == whole


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_extension_adds_to_what_a_finished_sweep_found(home) -> None:
    spec = write(home, steps=4)
    assert home.run("sweep", str(spec)).returncode == 0
    before = ended(home, "small")
    done = home.run("extend", "small", "--trials", "1", "--home", str(home.path))
    assert done.returncode == 0, done.stdout + done.stderr
    after = ended(home, "small")
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1
    assert after[-1][0] is TrialState.COMPLETE
    again = home.run("resume", "small", "--home", str(home.path))
    assert again.returncode == 0, "a finished sweep has nothing left to do"
    assert ended(home, "small") == after
