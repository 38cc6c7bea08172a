"""A driver that is killed: nothing that finished is lost, the rest ends as if nothing had happened.

One sweep is killed at every stage, resumed after each, and compared with one that nobody disturbed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from outcome import curves, ended
from speed import patience, wait_until

from trimtab.sweepdir import journal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SPEC: dict[str, Any] = {"seeds": [0, 1], "slots": {"count": 1}}
LEFT_S = 180
"""Should the guardian miss Ray's agents (their first two seconds), they end by themselves after 61 s."""

STAGES: dict[str, Callable[[str], bool]] = {
    "before Ray": lambda line: "starting" in line,
    "first trial": lambda line: line.startswith("0 ") and "started" in line,
    "mid-run": lambda line: line.startswith("0 ") and "seed 0" in line and "after 0 " not in line,
    "between trials": lambda line: line.startswith("0 ") and ": finished" in line,
    "last trial": lambda line: line.startswith("2 ") and "seed 1" in line and "after 0 " not in line,
}
"""Lines of a sweep's output at which its driver is killed, in the order in which they come."""


def write(home):
    return home.write(trial={**home.spec["trial"], "checkpoint_every": 1}, **SPEC)


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
    assert "Traceback" not in "".join(said)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=patience(LEFT_S))
    wait_until(lambda: not home.processes(), LEFT_S, "the killed driver left processes")
    assert state(home, "killed")["status"] == "interrupted"


def state(home, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(home.run("status", name, "--home", str(home.path), "--json").stdout)
    return found


def journal_of(home, trial: str) -> Path:
    return home.path / "sweeps" / "killed" / "records" / f"{trial}.jsonl"


def steps_of(home, name: str, trial: str) -> list[tuple[int, int]]:
    """(Seed, step) of every step of a trial, in order."""
    events = journal.read(home.path / "sweeps" / name, trial)
    return [(event["seed"], event["step"]) for event in events if event["event"] == "step"]


@pytest.fixture(scope="module")
def whole(lasting_home):
    """A sweep that nobody disturbed: its studies and its curves."""
    assert lasting_home.run("sweep", str(write(lasting_home)), "--name", "whole").returncode == 0
    return ended(lasting_home, "whole"), curves(lasting_home, "whole")


def test_a_sweep_killed_at_every_stage_ends_like_an_undisturbed_one(whole, lasting_home, home) -> None:
    resume = ("resume", "killed", "--home", str(home.path))
    process = home.start("sweep", str(write(home)), "--name", "killed")
    for stage, here in STAGES.items():
        kill_at(home, process, here)
        if stage != "last trial":
            process = home.start(*resume)
    reference, *_ = ended(home, "killed")
    assert reference[0] is TrialState.COMPLETE
    with journal_of(home, "trial-0002").open("ab") as file:
        file.write(b'{"event": "step", "se')  # as if the disk had been cut off in the middle of a line

    done = home.run(*resume)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert home.processes() == []
    last = state(home, "killed")
    assert (last["status"], len(last["trials"])) == ("finished", 3)
    assert {trial["status"] for trial in last["trials"]} == {"finished"}
    assert ended(home, "killed")[0] == reference
    assert (ended(home, "killed"), curves(home, "killed")) == whole
    check_that_nothing_was_repeated_or_lost(home, lasting_home)


def check_that_nothing_was_repeated_or_lost(home, undisturbed) -> None:
    """Each trial was killed once in its steps at most, and a checkpoint follows each step."""
    for trial in ("trial-0000", "trial-0001", "trial-0002"):
        for line in journal_of(home, trial).read_text().splitlines():
            json.loads(line)  # whole: what the disk had cut off is gone
        steps = steps_of(home, "killed", trial)
        assert len(steps) - len(set(steps)) <= 1, "at most the step that was cut off is repeated"
        assert sorted(set(steps)) == steps_of(undisturbed, "whole", trial)
    for (trial, seed), points in curves(home, "killed").items():
        events = journal.read(home.path / "sweeps" / "killed", trial)
        evaluated = {e["rollouts"] for e in events if e["event"] == "evaluation" and str(e["seed"]) == seed}
        assert [rollouts for rollouts, _ in points] == sorted(evaluated), "no hole and no duplicate"
        assert len(points) == 4


def test_an_extension_adds_to_what_a_finished_sweep_found(whole, lasting_home) -> None:
    before, _ = whole
    done = lasting_home.run("extend", "whole", "--trials", "1", "--home", str(lasting_home.path))
    assert done.returncode == 0, done.stdout + done.stderr
    after = ended(lasting_home, "whole")
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1
    assert after[-1][0] is TrialState.COMPLETE
    again = lasting_home.run("resume", "whole", "--home", str(lasting_home.path))
    assert again.returncode == 0, "a finished sweep has nothing left to do"
    assert ended(lasting_home, "whole") == after
