"""The tracker: from the journal to a real MLflow store on SQLite."""

import json
from pathlib import Path

import pytest
from tracked import CURVE, children, history, runs_of, track

from trimtab.decide.compare.read import Store
from trimtab.sweepdir.journal import Tail
from trimtab.sweepspec.spec import SweepSpec
from trimtab.tracking.operations import LogPoints, OpenRun
from trimtab.tracking.store import connect
from trimtab.tracking.translate import MAX_METRICS, Translator, run_name


def test_one_parent_and_a_child_for_each_configuration_and_seed(journal, store_uri) -> None:
    for number, trial in enumerate(("a", "b")):
        journal.start(trial, number)
        for seed in (0, 1, 2):
            journal.run(trial, seed, CURVE)
        journal.finish(trial)
    tracker = track(journal, store_uri)
    parents = [run for run in runs_of(store_uri) if run.data.tags["trimtab.role"] == "sweep"]
    assert [run.info.run_id for run in parents] == [tracker.parent_run_id]
    assert parents[0].info.status == "FINISHED"
    found = children(store_uri)
    assert sorted((run.data.tags["trimtab.trial"], run.data.tags["trimtab.seed"]) for run in found) == [
        (trial, str(seed)) for trial in ("a", "b") for seed in (0, 1, 2)
    ]
    assert {run.data.tags["mlflow.parentRunId"] for run in found} == {tracker.parent_run_id}
    assert {run.info.status for run in found} == {"FINISHED"}


def test_curves_by_step_and_by_compute(journal, store_uri) -> None:
    journal.start("a")
    journal.run("a", 0, CURVE)
    journal.finish("a")
    track(journal, store_uri)
    (run,) = children(store_uri)
    assert history(store_uri, run, "validation/accuracy") == [(10 * i, a) for i, a in enumerate(CURVE)]
    assert history(store_uri, run, "by_rollouts/accuracy") == [(1280 * i, a) for i, a in enumerate(CURVE)]
    assert history(store_uri, run, "by_tokens/accuracy") == [(5000 * i, a) for i, a in enumerate(CURVE)]
    assert history(store_uri, run, "by_rollouts/reward")[-1] == (7680, 0.66)
    assert run.data.metrics["strategy/prior"] == 0.5
    assert run.data.metrics["rollouts"] == 7680


def test_curves_of_seeds_that_run_at_once_are_whole(journal, store_uri) -> None:
    journal.start("a")
    for index, accuracy in enumerate(CURVE[:-2]):
        for seed in (0, 1, 2):
            journal.point("a", seed, index, accuracy + seed / 100)
    track(journal, store_uri, "killed")
    for index, accuracy in list(enumerate(CURVE))[-2:]:
        for seed in (2, 0, 1):
            journal.point("a", seed, index, accuracy + seed / 100)
    track(journal, store_uri, "killed")
    for run in children(store_uri):
        shift = int(run.data.tags["trimtab.seed"]) / 100
        whole = [(10 * i, pytest.approx(accuracy + shift)) for i, accuracy in enumerate(CURVE)]
        assert history(store_uri, run, "validation/accuracy") == whole


def test_only_searched_parameters_are_params_and_the_config_is_an_artifact(journal, store_uri) -> None:
    journal.start("a", 1, **{"v05.alpha": 0.25, "v05.group_size": 4})
    journal.run("a", 0, CURVE)
    journal.finish("a")
    track(journal, store_uri)
    (run,) = children(store_uri)
    assert run.data.params == {"v05.alpha": "0.25", "v05.group_size": "4"}
    file = Path(connect(store_uri).download_artifacts(run.info.run_id, "config.json"))
    config = json.loads(file.read_text())
    assert config["seed"] == 0
    assert config["learner"]["lr"] == 5e-5
    assert file.is_relative_to(journal.folder.parents[1]) or file.exists()


def test_difference_to_the_reference_at_equal_rollouts(journal, store_uri) -> None:
    # The candidate's file is read first ("a" sorts before "b"): its points wait for the reference.
    journal.start("a", 1)
    journal.run("a", 0, [value + 0.1 for value in CURVE])
    journal.start("b", 0)
    journal.run("b", 0, CURVE)
    journal.finish("b")
    track(journal, store_uri)
    candidate = next(run for run in children(store_uri) if run.data.tags["trimtab.role"] == "candidate")
    points = history(store_uri, candidate, "by_rollouts/accuracy_minus_dapo")
    assert [step for step, _ in points] == [1280 * i for i in range(len(CURVE))]
    assert [value for _, value in points] == pytest.approx([0.1] * len(CURVE))


def test_a_reference_that_left_rollouts_is_compared_at_the_end_as_well(journal, store_uri) -> None:
    """DAPO may have no use for the last rollouts of a step: the candidate ends beyond it."""
    journal.start("b", 0)
    journal.run("b", 0, CURVE[:-1])
    journal.finish("b")
    journal.start("a", 1)
    journal.run("a", 0, [value + 0.1 for value in CURVE])
    track(journal, store_uri)
    candidate = next(run for run in children(store_uri) if run.data.tags["trimtab.role"] == "candidate")
    *_, (last, difference) = history(store_uri, candidate, "by_rollouts/accuracy_minus_dapo")
    assert last == 1280 * (len(CURVE) - 1)
    assert difference == pytest.approx(CURVE[-1] + 0.1 - CURVE[-2])


def test_the_settings_by_which_a_run_learns_are_kept(journal, store_uri) -> None:
    journal.start("a", 1)
    journal.run("a", 0, CURVE)
    journal.finish("a")
    track(journal, store_uri)
    (run,) = Store(store_uri).sweep("v05_small").runs
    assert run.settings["learner.lr"] == 5e-5
    assert run.settings["loss.kl.coefficient"] == 0.0
    assert "sampling.max_tokens" not in run.settings, "that one must be shared"


def test_a_failed_run_is_failed_with_its_traceback(journal, store_uri) -> None:
    journal.start("a")
    journal.run("a", 0, CURVE[:2], status=None)
    journal.event(
        "a",
        "run_finished",
        seed=0,
        status="failed",
        error="boom",
        cause="diverged",
        traceback="Traceback: boom here",
    )
    journal.finish("a", "failed", "boom")
    track(journal, store_uri)
    (run,) = children(store_uri)
    assert run.info.status == "FAILED"
    assert run.data.tags["trimtab.error"] == "boom"
    assert run.data.tags["trimtab.cause"] == "diverged"
    file = Path(connect(store_uri).download_artifacts(run.info.run_id, "traceback.txt"))
    assert "boom here" in file.read_text()


def test_a_trial_that_fails_before_its_first_run_is_visible(journal, store_uri) -> None:
    journal.start("a")
    journal.finish("a", "failed", "no slot")
    track(journal, store_uri)
    (run,) = children(store_uri)
    assert run.info.status == "FAILED"
    assert run.data.tags["trimtab.error"] == "no slot"


@pytest.mark.parametrize(("status", "expected"), [("killed", "KILLED"), ("failed", "FAILED")])
def test_a_run_that_the_sweep_leaves_open_is_not_finished(journal, store_uri, status, expected) -> None:
    journal.start("a")
    journal.run("a", 0, CURVE)
    journal.run("a", 1, CURVE[:3], status=None)
    track(journal, store_uri, status)
    by_seed = {run.data.tags["trimtab.seed"]: run.info.status for run in children(store_uri)}
    assert by_seed == {"0": "FINISHED", "1": expected}


def test_early_stopped_is_told_apart_from_killed(journal, store_uri) -> None:
    journal.start("a")
    journal.run("a", 0, CURVE[:3], status="stopped")
    journal.finish("a", "stopped")
    track(journal, store_uri)
    (run,) = children(store_uri)
    assert run.info.status == "KILLED"
    assert run.data.tags["trimtab.status"] == "stopped"


def test_a_second_tracker_continues_the_runs_without_duplicates(journal, store_uri) -> None:
    journal.start("a")
    journal.run("a", 0, CURVE)
    journal.run("a", 1, CURVE[:3], status=None)
    first = track(journal, store_uri, "killed")
    journal.start("a")
    journal.run("a", 1, CURVE)
    journal.finish("a")
    second = track(journal, store_uri)
    assert second.parent_run_id == first.parent_run_id
    found = {run.data.tags["trimtab.seed"]: run for run in children(store_uri)}
    assert len(children(store_uri)) == 2
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert history(store_uri, found["0"], "by_rollouts/accuracy") == [
        (1280 * i, a) for i, a in enumerate(CURVE)
    ]


def test_long_runs_are_sent_in_batches_within_the_limit(journal, spec: SweepSpec) -> None:
    journal.start("a")
    for step in range(600):
        fields = {"step": step, "rollouts": step, "tokens": step, "seconds": 1.0}
        journal.event("a", "step", seed=0, **fields, metrics={"reward": 0.5})
    operations = Translator("dapo", spec.seeds).feed(Tail(journal.folder).read_at())
    batches = [operation for operation in operations if isinstance(operation, LogPoints)]
    assert isinstance(operations[0], OpenRun)
    assert MAX_METRICS - 6 < max(len(batch.points) for batch in batches) <= MAX_METRICS
    assert sum(len(batch.points) for batch in batches) == 600 * 6


def test_names_that_mlflow_refuses_are_made_acceptable(journal, store_uri) -> None:
    journal.start("a")
    fields = {"step": 1, "rollouts": 1, "tokens": 1, "seconds": 1.0}
    journal.event("a", "step", seed=0, **fields, metrics={"w>0 [share]": 0.25, "reward": 0.5})
    journal.event("a", "run_finished", seed=0, status="finished", error=None)
    track(journal, store_uri)
    (run,) = children(store_uri)
    assert run.data.metrics["train/w_0 _share_"] == 0.25


def test_a_step_that_is_run_again_is_one_point(journal, store_uri) -> None:
    journal.start("a")
    journal.run("a", 0, CURVE[:4], status=None)
    journal.start("a")
    journal.run("a", 0, CURVE)
    journal.finish("a")
    track(journal, store_uri)
    (run,) = children(store_uri)
    for name, start in (("validation/accuracy", 0), ("train/reward", 1)):
        assert [step for step, _ in history(store_uri, run, name)] == [
            10 * i for i in range(start, len(CURVE))
        ]


def test_the_parent_says_where_it_came_from_and_runs_what_they_read(journal, store_uri) -> None:
    journal.start("a")
    data = {
        "train": {"name": "addition", "source": "addition, data_seed 0", "problems": 512, "sha256": "ab" * 32}
    }
    journal.event("a", "data", seed=0, data=data)
    journal.run("a", 0, CURVE)
    journal.event("node-here", "system", metrics={"cpu_utilization_percentage": 50.0})
    journal.finish("a")
    parent = track(journal, store_uri).parent_run_id
    client = connect(store_uri)
    environment = json.loads(Path(client.download_artifacts(parent, "environment.json")).read_text())
    assert environment["packages"]["pydantic"] == __import__("pydantic").__version__
    git = json.loads(Path(client.download_artifacts(parent, "git.json")).read_text())
    assert len(git["trimtab"]["commit"]) == 40
    (system,) = runs_of(store_uri, "tags.`trimtab.role` = 'system'")
    assert system.data.metrics == {"system/here/cpu_utilization_percentage": 50.0}
    assert (system.data.tags["mlflow.parentRunId"], system.info.status) == (parent, "FINISHED")
    assert client.get_run(parent).data.metrics == {}, "the parent's first screen is for what was found"
    (run,) = (run for run in children(store_uri) if run.data.tags["trimtab.role"] != "system")
    (found,) = client.get_run(run.info.run_id).inputs.dataset_inputs
    assert (found.dataset.name, found.tags[0].value) == ("addition-train", "train")
    assert json.loads(found.dataset.source)["sha256"] == "ab" * 32


def test_layers_are_an_artifact_of_their_run(journal, store_uri) -> None:
    journal.start("a")
    spent = {"step": 1, "rollouts": 128, "tokens": 500, "seconds": 1.0}
    metrics = {"strategy/layer_mae/00": 0.2, "strategy/layer_mae/01": 0.3}
    journal.event("a", "step", seed=0, **spent, metrics=metrics)
    journal.run("a", 0, CURVE)
    journal.finish("a")
    track(journal, store_uri)
    (run,) = children(store_uri)
    page = connect(store_uri).download_artifacts(run.info.run_id, "layers.html")
    assert "layer 1, step 1: 0.3000" in Path(page).read_text()


def test_a_second_tracker_goes_on_with_the_run_of_the_system_metrics(journal, store_uri) -> None:
    for load in (50.0, 60.0):
        journal.event("node-here", "system", metrics={"cpu_utilization_percentage": load})
        track(journal, store_uri, "killed")
    (system,) = runs_of(store_uri, "tags.`trimtab.role` = 'system'")
    assert len(history(store_uri, system, "system/here/cpu_utilization_percentage")) == 2


def test_the_experiment_opens_on_its_training_runs_unless_a_user_chose_otherwise(
    journal, store_uri, tmp_path
) -> None:
    client, kind = connect(store_uri), "mlflow.experimentKind"
    of_an_old_version = client.create_experiment("trimtab", (tmp_path / "artifacts").as_uri())
    track(journal, store_uri)
    assert client.get_experiment(of_an_old_version).tags[kind] == "custom_model_development"
    client.set_experiment_tag(of_an_old_version, kind, "genai_development")
    track(journal, store_uri)
    assert client.get_experiment(of_an_old_version).tags[kind] == "genai_development"


def test_names_of_runs_are_short_and_differ() -> None:
    labels = ("poise(k=2,warmup_updates=4,order=standardised) lr=0.0004", "poise(k=2) lr=0.0001")
    names = {run_name(number, label, seed) for number, label in enumerate(labels) for seed in (0, 1)}
    assert names == {"0 poise seed 0", "0 poise seed 1", "1 poise seed 0", "1 poise seed 1"}
    assert len(run_name(10, "x" * 300, 7)) <= 34
