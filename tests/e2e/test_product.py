"""A user's day: sweep, confirm, report, promote, see all of it in MLflow's own UI, train at full size."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from services import answers
from speed import patience, wait_until

from trimtab.sweepdir import journal
from trimtab.sweepdir.folder import SweepDir

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
IMAGES = Path(__file__).parents[2] / "docs" / "images"


@pytest.fixture(scope="module")
def day(lasting_home):
    """Swept, confirmed and promoted with --force: three tiny seeds establish nothing."""
    trial = {**lasting_home.spec["trial"], "learner": {"lr": 5e-5, "gradient_noise_every": 1}}
    rates = {"learner.lr": {"choice": [5e-5, 1e-4]}}
    spec = lasting_home.write(
        trial=trial,
        seeds=[0, 1],
        slots={"count": 1},
        candidates=[{"strategy": {"preset": "v05", "group_size": 4}, "search": rates}],
        search={"sampler": "grid"},
        confirm={"seeds": 3},
    )
    home = ("--home", str(lasting_home.path))
    said = []
    for command in (
        ("sweep", str(spec), "--confirm"),
        ("report", "small", *home),
        ("promote", "small", "--force", *home),
    ):
        done = lasting_home.run(*command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert "Traceback" not in done.stdout + done.stderr
        said.append(done.stdout)
    assert "v05: 2 configurations, best" in said[0]
    assert "reference not tuned: dapo ran 1 configuration, v05 2" in said[0]
    assert "established: " in said[0].splitlines()[-1], "the last line says what was found"
    assert lasting_home.processes() == []
    return lasting_home


@pytest.fixture
def client(day) -> MlflowClient:
    return MlflowClient(f"sqlite:///{day.path / 'mlflow.db'}")


def tagged(client: MlflowClient, **tags: str) -> list[Any]:
    experiment = client.get_experiment_by_name("trimtab")
    wanted = " and ".join(f"tags.`trimtab.{name}` = '{value}'" for name, value in tags.items())
    return list(client.search_runs([experiment.experiment_id], wanted))


def test_the_verdict_comes_from_fresh_seeds_on_the_test_split(day, client) -> None:
    shown = json.loads(day.run("compare", "small", "--home", str(day.path), "--json").stdout)
    assert (shown["purpose"], shown["confirms"], shown["split"]) == ("confirm", "small", "test")
    assert [row["seeds"] for row in shown["rows"]] == [[2, 3, 4], [2, 3, 4]]
    runs = tagged(client, sweep="small-confirm", role="candidate")
    assert len(runs) == 3
    for run in runs:
        assert "test/accuracy" in run.data.metrics
        assert "validation/accuracy" not in run.data.metrics
    searched = tagged(client, sweep="small", role="candidate")
    assert not any("test/accuracy" in run.data.metrics for run in searched)


def test_the_confirmation_took_over_the_slot_and_the_rate_that_was_found(day, client) -> None:
    """The search's three configurations have used two leases each; the confirmation's follow on them."""
    folder = day.path / "sweeps" / "small-confirm"
    leases = [e for e in journal.read(folder, "trial-0000") if e["event"] == "lease"]
    assert [event["lease"] > 1 for event in leases] == [True] * 3
    best = max(
        (e for e in SweepDir(day.path / "sweeps" / "small").events() if e["event"] == "trial_finished"),
        key=lambda event: (event["trial"] != "trial-0000", event["score"]),
    )
    (found,) = {run.data.tags["trimtab.label"] for run in tagged(client, sweep="small", trial=best["trial"])}
    assert {
        run.data.tags["trimtab.label"] for run in tagged(client, sweep="small-confirm", role="candidate")
    } == {found.removesuffix(" lr=5e-05")}


def test_every_metric_of_a_step_is_there(day, client) -> None:
    (run, *_) = tagged(client, sweep="small", role="candidate")
    wanted = (
        "reward train_accuracy train_pass response_length entropy gradient_norm clip_fraction mismatch_kl"
    )
    wanted += " effective_sample_size gradient_noise_trace gradient_signal"
    strategy = "baseline_mse adv_var_over_reward_var prior_accept_rate rollouts_per_prompt uniform_groups"
    expected = {f"train/{name}" for name in wanted.split()}
    expected |= {f"strategy/{name}" for name in strategy.split()}
    expected |= {"validation/accuracy", "validation/pass_at_k", "tokens", "seconds", "seconds/generate"}
    assert expected <= run.data.metrics.keys()
    data = client.get_run(run.info.run_id).inputs.dataset_inputs
    assert {tag.value for one in data for tag in one.tags} == {"train", "validation"}
    (system,) = tagged(client, sweep="small", role="system")
    assert any(name.startswith("system/") for name in system.data.metrics)


ENGINE = """
import json, sys
import numpy as np
from trainables.config import EngineConfig
from trainables.rollouts.build import build_engine
from trainables.rollouts.engine import DrawRequest
folder, prompt = sys.argv[1], json.loads(sys.argv[2])
engine = build_engine(folder, EngineConfig())
drawn = engine.draw(DrawRequest([prompt], np.array([1]), np.array([0.0]), np.array([4])))
print("drawn", int(drawn.responses()[0][0]))
engine.close()
"""


def test_the_promoted_weights_load_in_transformers_and_vllm(day, client) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    version = client.get_model_version_by_alias("small", "champion")
    folder = client.download_artifacts(version.run_id, "model")
    prompt = AutoTokenizer.from_pretrained(folder)("12+34=")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        greedy = int(model(torch.tensor([prompt])).logits[0, -1].argmax())
    # In a process of its own, as engines are: vLLM looks at the globals of every module that is loaded, and
    # Flask's, which MLflow's server brings, raise when they are looked at outside of a request.
    command = [sys.executable, "-c", ENGINE, folder, json.dumps(prompt)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience(300))
    assert f"drawn {greedy}" in done.stdout.splitlines(), done.stdout[-2000:] + done.stderr[-2000:]


def test_a_training_run_that_is_killed_ends_like_one_that_was_not(day, client) -> None:
    file = day.path.parent / "promoted" / "small.yaml"
    document = yaml.safe_load(file.read_text())
    more = {"steps": 6, "evaluate_every": 2, "checkpoint_every": 2, "seed": 7}
    document |= {"production": more, "slots": {"count": 1}}
    ends = {}
    for name in ("whole", "killed"):
        promoted = file.with_name(f"{name}.yaml")
        promoted.write_text(yaml.safe_dump({**document, "name": name}))
        command = ("train", str(promoted), "--home", str(day.path))
        if name == "killed":
            process = day.start(*command)
            assert process.stdout is not None
            # At the start, after two steps and after four: a checkpoint lies behind it.
            next(islice((line for line in process.stdout if ": accuracy " in line), 2, None))
            os.kill(process.pid, signal.SIGKILL)
            process.wait(timeout=patience(60))
            wait_until(lambda: not day.processes(), 180)  # Ray's agents take 61 s (test_resume.py)
        done = day.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"models:/{name}/1" in done.stdout
        events = journal.read(day.path / "training" / name, "production")
        accuracies = {e["rollouts"]: e["metrics"]["accuracy"] for e in events if e["event"] == "evaluation"}
        version = client.get_model_version(name, "1")
        weights = Path(client.download_artifacts(version.run_id, "model")) / "model.safetensors"
        ends[name] = (accuracies, weights.read_bytes())
        (run,) = tagged(client, sweep=name, trial="production")
        assert run.info.status == "FINISHED"
        (system,) = tagged(client, sweep=name, role="system")
        assert any(metric.startswith("system/") for metric in system.data.metrics)
        points = client.get_metric_history(run.info.run_id, "by_rollouts/accuracy")
        assert len(points) == len(accuracies)
    assert ends["whole"] == ends["killed"]
    again = day.run("train", "models:/whole/1", "--home", str(day.path))
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(client.search_model_versions("name = 'whole'")) == 1, "what has finished is not trained again"
    other = day.run(
        "train", str(file.with_name("whole.yaml")), "--set", "production.steps=9", "--home", str(day.path)
    )
    assert other.returncode == 2
    assert "has begun with other settings" in other.stderr


@contextmanager
def served(day) -> Iterator[str]:
    """`trimtab ui` for the time of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = day.start("ui", "--home", str(day.path), "--port", str(port))
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: process.poll() is not None or answers(f"{url}/health"), 150)
        assert process.poll() is None
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=patience(30))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def picture(page: Any, name: str) -> None:
    """A screenshot; into the documentation when TRIMTAB_SCREENSHOTS is set."""
    assistant = page.get_by_role("button", name="Close")
    if assistant.count():
        assistant.first.click()
    if os.environ.get("TRIMTAB_SCREENSHOTS"):
        IMAGES.mkdir(exist_ok=True)
        page.wait_for_timeout(2000)
        page.screenshot(path=IMAGES / f"{name}.png")


def test_the_ui_shows_runs_curves_report_and_model(day, client, page) -> None:
    experiment = client.get_experiment_by_name("trimtab").experiment_id
    (parent,) = tagged(client, sweep="small", role="sweep")
    pair = [
        run.info.run_id
        for role in ("reference", "candidate")
        for run in tagged(client, sweep="small", role=role, seed="0")[:1]
    ]
    with served(day) as url:
        # The parent, and its children once it is opened.
        page.goto(f"{url}/#/experiments/{experiment}/runs")
        row = page.get_by_role("row").filter(has_text="small").filter(has_not_text="confirm").last
        row.wait_for()
        row.locator("button").last.click()
        page.get_by_text("0 dapo seed 0").first.wait_for()
        assert page.get_by_text("seed 1").count() >= 2
        picture(page, "runs")

        # DAPO and V0.5 on the axis of rollouts.
        metric = json.dumps("by_rollouts/accuracy")
        page.goto(
            f"{url}/#/metric?runs={json.dumps(pair)}&experiments={json.dumps([experiment])}&metric={metric}"
            f"&plot_metric_keys=[{metric}]&x_axis=step&plot_layout={{}}"
        )
        page.locator(".main-svg").first.wait_for()
        data = page.evaluate(
            "[...document.querySelectorAll('.js-plotly-plot')].map(p => p.data).flat().map(t => t.x)"
        )
        longest = [points for points in data if len(points) > 1]
        assert len(longest) >= 2
        assert max(max(points) for points in longest) > 6 * 32 - 32, "the axis is rollouts, not steps"
        picture(page, "equal-rollouts")

        # The report, on the sweep's own run.
        page.goto(f"{url}/#/experiments/{experiment}/runs/{parent.info.run_id}/artifacts/report.html")
        report = page.frame_locator("iframe")
        report.get_by_role("heading", name="small").wait_for()
        report.locator(".main-svg").first.wait_for()
        titles = set(report.locator("h2").all_inner_texts())
        assert {"Gradient norm", "Entropy", "Parallel coordinates", "Parameter importance"} <= titles
        assert report.locator(".js-plotly-plot .main-svg").count() >= 8
        assert report.get_by_text("not measured in this sweep").count() == 0
        picture(page, "report")
        report.get_by_role("heading", name="Accuracy at equal rollouts").evaluate("e => e.scrollIntoView()")
        picture(page, "report-curves")

        # The registered model and its alias.
        page.goto(f"{url}/#/models/small/versions/1")
        page.get_by_text("champion").first.wait_for()
        picture(page, "model")
