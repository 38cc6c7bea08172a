"""Ctrl-C and `trimtab stop` in the middle of a sweep."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

import pytest
from mlflow import MlflowClient
from speed import patience


def interrupt(home, process) -> None:
    """What a terminal does: the whole foreground process group gets SIGINT."""
    os.killpg(process.pid, signal.SIGINT)


def stop(home, process) -> None:
    assert home.run("stop", "small", "--home", str(home.path)).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("end", [interrupt, stop])
def test_an_interrupted_sweep_keeps_what_finished_and_leaves_no_process(home, end: Callable) -> None:
    # Long enough for the second seed to be under way still when the interrupt arrives.
    long = {**home.spec["trial"], "steps": 40, "evaluation": {"every": 8, "samples": 1}}
    spec = home.write(trial=long, slots={"count": 1})
    process = home.start("sweep", str(spec))
    assert process.stdout is not None
    output = []
    for line in process.stdout:
        output.append(line)
        if "seed 1" in line and "accuracy" in line:  # seed 0 of DAPO has finished, seed 1 is under way
            break
    end(home, process)
    rest, _ = process.communicate(timeout=patience(240))
    said = "".join(output) + rest
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert ": failed" not in said
    assert home.processes() == []
    status = json.loads(home.run("status", "small", "--home", str(home.path), "--json").stdout)
    assert [trial["status"] for trial in status["trials"]] == ["interrupted"]

    client = MlflowClient(f"sqlite:///{home.path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("trimtab")
    runs = client.search_runs([experiment.experiment_id])
    children = {r.data.tags["trimtab.seed"]: r for r in runs if "trimtab.seed" in r.data.tags}
    assert children["0"].info.status == "FINISHED"
    assert children["1"].info.status == "KILLED"
    assert len(client.get_metric_history(children["0"].info.run_id, "by_rollouts/accuracy")) > 3
