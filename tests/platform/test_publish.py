"""What a comparison found, where the MLflow UI shows it, over a real store."""

from __future__ import annotations

import base64
import json
import shutil
import zlib

import pytest
from click.testing import CliRunner
from decided import Decided, config_of

from trimtab.cli.main import main
from trimtab.decide.compare.read import Store
from trimtab.decide.compare.verdict import decide
from trimtab.decide.compare.words import finding
from trimtab.decide.confirm import confirmation_spec
from trimtab.decide.publish.answer import publish, publish_ended
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepspec.load import load_spec
from trimtab.tracking.store import connect, saved_views

NOTE = "mlflow.note.content"


@pytest.fixture(scope="module")
def home(tmp_path_factory, empty_store) -> Decided:
    """A search, and the confirmation of its best, both published as their drivers would."""
    path = tmp_path_factory.mktemp("published")
    shutil.copy(empty_store, path / "mlflow.db")
    found = Decided(path, f"sqlite:///{path / 'mlflow.db'}")
    spec = load_spec("v05_small", [f"home={path}", "search.trials=2"])
    found.store("quick", spec)
    for number, gain in enumerate((0.0, 0.03, -0.05)):
        found.trial("quick", number, config_of(spec, number), range(3), gain)
    found.track("quick")
    publish(Store(found.uri), "quick", home=path)
    confirmation = confirmation_spec(path, "quick", seeds=5)
    found.store("quick-confirm", confirmation)
    for number, searched in enumerate((confirmation.reference, *confirmation.candidates)):
        config = confirmation.config_of(searched, {}).model_dump(mode="json")
        found.trial("quick-confirm", number, config, range(3, 8), 0.03 * number, "test")
    found.track("quick-confirm")
    publish(Store(found.uri), "quick-confirm", home=path)
    return found


@pytest.fixture
def store(home) -> Store:
    return Store(home.uri)


def parent(store, name):
    (run,) = store.search({"trimtab.sweep": name, "trimtab.role": "sweep"})
    return run


def written(store):
    """Everything that is on the runs, with the length of every curve of a comparison."""
    client = connect(store.uri)
    return {
        run.info.run_id: (
            run.data.tags,
            run.data.metrics,
            [len(client.get_metric_history(run.info.run_id, name)) for name in compared(run)],
        )
        for run in store.search({"trimtab.role": "sweep"}) + store.search({"trimtab.role": "candidate"})
    }


def compared(run):
    return {name: value for name, value in run.data.metrics.items() if name.startswith("compared/")}


@pytest.mark.parametrize("name", ["quick", "quick-confirm"])
def test_the_description_says_what_was_found_with_table_and_links(home, store, name) -> None:
    text = parent(store, name).data.tags[NOTE]
    assert finding(decide(store, [name]).standing, home.home) in text.replace("\\", "")
    assert "established: v05" in text or "established: trial" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4, "titles, their rule, DAPO and the confirmed configuration"
    other = parent(store, "quick-confirm" if name == "quick" else "quick")
    assert f"](#/experiments/{other.info.experiment_id}/runs/{other.info.run_id})" in text


def test_runs_sort_by_minus_dapo_and_by_ratio(store) -> None:
    client = connect(store.uri)
    experiment = client.get_experiment_by_name("trimtab").experiment_id
    where = "tags.`trimtab.sweep` = 'quick' and tags.`trimtab.role` != 'sweep'"
    by_gain = client.search_runs([experiment], where, order_by=["metrics.`compared/minus_dapo` DESC"])
    numbers = [run.data.tags["trimtab.number"] for run in by_gain]
    assert numbers == ["1"] * 3 + ["0"] * 3 + ["2"] * 3
    (row,) = (row for row in decide(store, ["quick"]).search.rows if row.number == 1)
    best = compared(by_gain[0])
    assert best["compared/minus_dapo"] == row.difference.mean
    assert (best["compared/minus_dapo_low"], best["compared/minus_dapo_high"]) == (
        row.difference.low, row.difference.high,
    )  # fmt: skip
    assert best["compared/ratio"] == row.ratio.value < 1
    assert compared(by_gain[3]) == {"compared/minus_dapo": 0.0, "compared/ratio": 1.0}
    standing = decide(store, ["quick"]).confirmation.rows[1]
    assert compared(parent(store, "quick"))["compared/minus_dapo"] == standing.difference.mean


def test_the_newest_views_are_found_without_mlflow(home, store) -> None:
    both = [(name, store.view(name)) for name in ("quick-confirm", "quick")]
    assert sorted(saved_views(home.uri, 3)) == sorted(both)
    assert len(saved_views(home.uri, 1)) == 1
    assert saved_views(f"sqlite:///{home.home / 'none.db'}", 3) == []


def test_publishing_again_changes_nothing(home, store) -> None:
    before = written(store)
    publish(store, "quick-confirm", home=home.home)
    done = CliRunner().invoke(main, ["track", "quick-confirm", "--home", str(home.home)])
    assert done.exit_code == 0, done.output
    assert written(store) == before


def test_a_description_that_a_user_wrote_stays(home, store) -> None:
    run, client = parent(store, "quick"), connect(store.uri)
    ours = run.data.tags[NOTE]
    client.set_tag(run.info.run_id, NOTE, "mine")
    publish(store, "quick", home=home.home)
    assert parent(store, "quick").data.tags[NOTE] == "mine"
    client.set_tag(run.info.run_id, NOTE, ours)


def test_a_store_that_is_gone_is_reported_and_fails_nothing(home, tmp_path) -> None:
    gone = Store(f"sqlite:///{tmp_path / 'gone.db'}")
    (message,) = publish_ended(SweepDir.of(home.home, "quick"), gone)
    assert "the answer of quick is not on its MLflow run" in message


def test_the_chart_view_is_as_mlflow_saves_one(home, store) -> None:
    run, client = parent(store, "quick-confirm"), connect(store.uri)
    tags = client.get_experiment(run.info.experiment_id).tags
    view = json.loads(tags[f"mlflow.sharedViewState.{run.info.run_id}"])
    assert set(view) == {"name", "createdAt", "updatedAt", "state"}
    packed = view["state"].removeprefix("deflate;")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    (chart,) = state["compareRunCharts"]
    assert chart["selectedXAxisMetricKey"] == "training rollouts"
    experiment = client.get_experiment_by_name("trimtab").experiment_id
    shown = client.search_runs([experiment], state["searchFilter"])
    assert len(shown) == 2 * 5, "DAPO and the best under every seed"
    steps = {
        tuple(point.step for point in client.get_metric_history(one.info.run_id, chart["metricKey"]))
        for one in shown
    }
    assert len(steps) == 1, "means over seeds need one grid"
    done = CliRunner().invoke(main, ["compare", "quick", "--home", str(home.home)])
    assert f"viewStateShareKey={run.info.run_id}" in done.output
    assert "workflowType=machine_learning" in done.output
