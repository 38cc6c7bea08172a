"""From a search to a verdict, a report and a promoted model version, over a real store."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from decided import Decided, config_of

from trimtab.cli.main import main
from trimtab.decide.compare.read import Store
from trimtab.decide.compare.statistics import holm
from trimtab.decide.compare.table import compare
from trimtab.decide.compare.verdict import decide
from trimtab.decide.confirm import confirmation_spec
from trimtab.decide.promote import promote
from trimtab.decide.promoted import Production, load_promoted
from trimtab.decide.registry import Registry
from trimtab.errors import ComparisonError, NotFoundError, PromotionError, RegistryError, SpecError
from trimtab.sweepspec.load import load_spec
from trimtab.tracking import names
from trimtab.tracking.store import connect


@pytest.fixture(scope="module")
def home(tmp_path_factory, empty_store, tiny_model) -> Decided:
    """A search of three configurations, and the confirmation of the best two on the test split."""
    path = tmp_path_factory.mktemp("decided")
    shutil.copy(empty_store, path / "mlflow.db")
    checkpoint = path / "checkpoint-60"
    shutil.copytree(tiny_model, checkpoint / "model")
    found = Decided(path, f"sqlite:///{path / 'mlflow.db'}", checkpoint)
    spec = load_spec("v05_small", [f"home={path}", "search.trials=3"])
    found.store("quick", spec)
    for number, gain in enumerate((0.0, 0.03, 0.0, -0.05)):
        found.trial("quick", number, config_of(spec, number), range(3), gain)
    found.track("quick")
    confirmation = confirmation_spec(path, "quick", top=2, seeds=5)
    found.store("quick-confirm", confirmation)
    for number, searched in enumerate((confirmation.reference, *confirmation.candidates)):
        config = confirmation.config_of(searched, {}).model_dump(mode="json")
        gain = (0.0, 0.03, 0.0)[number]
        found.trial("quick-confirm", number, config, range(3, 8), gain, "test")
    found.track("quick-confirm")
    return found


@pytest.fixture
def store(home) -> Store:
    return Store(home.uri)


def run(home, *arguments: str):
    return CliRunner().invoke(main, [*arguments, "--home", str(home.home)])


def test_a_confirmation_is_the_best_under_fresh_seeds_on_the_test_split(home) -> None:
    spec = load_spec(home.folder("quick-confirm") / "spec.yaml")
    assert spec.confirms == "quick"
    assert spec.seeds == (3, 4, 5, 6, 7)
    assert spec.reference_config().evaluation.split == "test"
    assert [c.strategy["settings"]["alpha"] for c in spec.candidates] == pytest.approx([0.1, 0.2])
    assert spec.search.early_stopping is None
    assert spec.trials == 3
    # Another confirmation sees neither the search's seeds nor the first one's.
    assert confirmation_spec(home.home, "quick", top=1, seeds=2).seeds == (8, 9)


def test_the_verdict_comes_from_the_confirmation_alone(home, store) -> None:
    found = decide(store, ["quick"])
    assert {row.verdict for row in found.search.rows} == {"reference", "above", "below", "not established"}
    verdicts = {row.label: row.verdict for row in found.confirmation.rows}
    assert verdicts == {"dapo": "reference", "v05-1": "better", "v05-2": "not established"}
    best = found.confirmation.rows[1]
    assert best.p_adjusted == pytest.approx(2 * best.difference.p_value)
    assert best.seeds == (3, 4, 5, 6, 7)


def test_the_command_says_the_same(home) -> None:
    done = run(home, "compare", "quick", "--json")
    assert done.exit_code == 0, done.output
    shown = json.loads(done.output)
    assert (shown["purpose"], shown["split"], shown["search"]["purpose"]) == ("confirm", "test", "search")
    text = run(home, "compare", "quick").output
    assert "confirmation of quick" in text
    assert "better" in text
    assert "search only" in run(home, "compare", "quick", "quick").output


@pytest.mark.parametrize("by", ["rollouts", "tokens", "seconds"])
def test_compute_may_be_counted_in_anything(home, store, by) -> None:
    found = compare(store.sweep("quick", by=by))
    good = next(row for row in found.rows if row.number == 1)
    # The candidates spend twice the tokens for a rollout.
    assert (good.ratio.value > 1) == (by == "tokens")
    if by == "tokens":
        assert good.difference.mean < compare(store.sweep("quick")).rows[1].difference.mean


def test_another_configuration_may_be_the_reference(home, store) -> None:
    found = decide(store, ["quick"], reference="v05-1").search
    assert found.rows[0].label == "v05-1"
    assert found.reference == "v05-1"
    assert all(row.difference.mean < 0 for row in found.rows[1:])
    done = run(home, "compare", "quick", "--reference", "ppo")
    assert done.exit_code == 2
    assert "'ppo' did not run" in done.output
    assert "0 dapo, 1 v05-1" in done.output


def test_sweeps_of_other_compute_or_data_are_refused(home, store) -> None:
    with pytest.raises(ComparisonError, match="test split"):
        decide(store, ["quick", "quick-confirm"])
    spec = load_spec("v05_small", [f"home={home.home}", "trial.steps=30", "trial.task.data_seed=7"])
    if not home.folder("other").exists():
        home.store("other", spec)
        home.trial("other", 0, config_of(spec, 0), range(3), 0.0)
        home.track("other")
    with pytest.raises(ComparisonError, match=r"task .*data_seed.*budget \(rollouts\) 7680 against 3840"):
        decide(store, ["quick", "other"])


def test_a_reference_without_a_finished_run_is_an_error_below_the_table(home) -> None:
    spec = load_spec("v05_small", [f"home={home.home}"])
    home.store("broken", spec)
    home.trial("broken", 0, config_of(spec, 0), range(3), 0.0, status="failed")
    home.trial("broken", 1, config_of(spec, 1), range(3), 0.0)
    home.track("broken")
    done = run(home, "compare", "broken")
    assert done.exit_code == 2
    assert "v05-1" in done.output
    assert "no finished run" in done.output


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nothing", NotFoundError, "no sweep named 'nothing'"),
        ("quick-confirm", SpecError, "is itself the confirmation"),
        ("broken", NotFoundError, "no finished reference"),
    ],
)
def test_what_cannot_be_confirmed(home, name, error, message) -> None:
    with pytest.raises(error, match=message):
        confirmation_spec(home.home, name, 1, 3)


def test_a_search_may_not_see_the_test_split() -> None:
    with pytest.raises(SpecError, match="verdict"):
        load_spec("v05_small", ["trial.evaluation.split=test"])


@pytest.mark.parametrize(
    ("p", "family", "expected"),
    [
        ([0.01], None, [0.01]),
        ([0.04, 0.01, 0.03], None, [0.06, 0.03, 0.06]),
        ([0.01, 0.02], 4, [0.04, 0.06]),
        ([0.5, 0.9], None, [1.0, 1.0]),
    ],
)
def test_holm(p, family, expected) -> None:
    assert holm(p, family) == pytest.approx(expected)


def test_the_report_is_one_file_that_loads_nothing(home, page) -> None:
    done = run(home, "report", "quick")
    assert done.exit_code == 0, done.output
    file = home.folder("quick") / "report.html"
    asked: list[str] = []
    broken: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.goto(file.as_uri())
    page.get_by_role("heading", name="Runs that did not finish").wait_for()
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [file.as_uri()]
    assert broken == []
    titles = page.locator("h2").all_inner_texts()
    assert {"Accuracy at equal rollouts", "Gradient norm", "Entropy"} <= set(titles)
    assert any("Gradient noise" in title for title in titles)
    assert page.locator(".js-plotly-plot .main-svg").count() >= 6, "four curves and two fronts"
    assert page.locator("td.better").count() == 1
    (parent,) = Store(home.uri).search({names.SWEEP: "quick", names.ROLE: "sweep"})
    assert "report.html" in {f.path for f in connect(home.uri).list_artifacts(parent.info.run_id)}


def promoted(home, **options):
    folder = home.home / "promoted"
    return promote(Store(home.uri), "quick", folder=folder, home=home.home, **options)


def test_promotion_is_refused_unless_established(home) -> None:
    with pytest.raises(PromotionError, match=r"2 v05-2 is not established against dapo.*--seeds N"):
        promoted(home, trial=2)
    typed = f"trimtab confirm quick --top N --home {home.home}"
    with pytest.raises(PromotionError, match=f"not among those that were confirmed.*{re.escape(typed)}"):
        promoted(home, trial=3)
    with pytest.raises(NotFoundError, match="choose from 1, 2, 3"):
        promoted(home, trial=9)
    assert not (home.home / "promoted").exists()
    assert connect(home.uri).search_registered_models() == []


def test_a_deleted_checkpoint_registers_nothing(home) -> None:
    hidden = home.checkpoint.with_name("hidden")
    home.checkpoint.rename(hidden)
    try:
        with pytest.raises(PromotionError, match=r"is missing.*holds no config.json"):
            promoted(home)
    finally:
        hidden.rename(home.checkpoint)
    assert connect(home.uri).search_registered_models() == []


def test_promote_again_force_and_roll_back(home) -> None:
    client = connect(home.uri)
    first = promoted(home)
    assert (first.row.number, first.moved.version, first.moved.before, first.forced) == (1, "1", None, False)
    document = yaml.safe_load(first.file.read_text())
    assert document["provenance"]["verdict"] == "better"
    assert document["provenance"]["seeds"] == [3, 4, 5, 6, 7]
    assert len(document["provenance"]["git"]["trimtab"]["commit"]) == 40
    assert load_promoted(first.file).config().strategy.settings["alpha"] == pytest.approx(0.1)
    version = client.get_model_version_by_alias("quick", "champion")
    assert version.tags["trimtab.verdict"] == "better"
    assert client.get_run(version.run_id).data.tags[names.SWEEP] == "quick-confirm"
    files = {Path(f.path).name for f in client.list_artifacts(version.run_id, "model")}
    assert {"config.json", "model.safetensors", "tokenizer.json", "trimtab.yaml"} <= files

    again = promoted(home)
    assert (again.moved.version, again.moved.before) == ("1", "1"), "the same promotion is the same version"
    forced = promoted(home, trial=3, force=True)
    assert (forced.moved.version, forced.moved.before, forced.forced) == ("2", "1", True)
    assert client.get_model_version("quick", "2").tags["trimtab.forced"] == "true"
    assert yaml.safe_load(forced.file.read_text())["provenance"]["forced"] is True
    done = run(home, "rollback", "quick")
    assert "champion is version 1 again" in done.output
    assert Registry(home.uri).version_of("quick", "champion") == "1"
    done = run(home, "rollback", "quick")
    assert done.exit_code == 2
    assert "replaced no other" in done.output


def test_of_two_promotions_at_once_one_wins_and_the_other_says_so(home) -> None:
    """The registry is left to tell them apart: no lock between them, and both have read the alias."""
    runs = [r.info.run_id for r in Store(home.uri).search({names.SWEEP: "quick", names.ROLE: "candidate"})][
        :2
    ]
    read = threading.Barrier(2)
    outcomes: list[object] = []

    def promote_one(run_id: str) -> None:
        def source() -> str:
            read.wait()
            return f"{connect(home.uri).get_run(run_id).info.artifact_uri}/model"

        try:
            outcomes.append(
                Registry(home.uri).promote("race", "champion", run_id, source, {}, lambda v: None)
            )
        except RegistryError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=promote_one, args=(run_id,)) for run_id in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [o for o in outcomes if not isinstance(o, RegistryError)]
    lost = [o for o in outcomes if isinstance(o, RegistryError)]
    assert len(won) == len(lost) == 1, outcomes
    assert "another promotion" in str(lost[0])
    (version,) = connect(home.uri).search_model_versions("name = 'race'")
    assert version.run_id in runs
    assert Registry(home.uri).version_of("race", "champion") == str(version.version) == won[0].version


def test_a_failure_while_registering_leaves_no_version(home) -> None:
    (run,) = Store(home.uri).search({names.SWEEP: "quick", names.TRIAL: "trial-0003", names.SEED: "0"})
    run_id = run.info.run_id

    def full(version: str) -> None:
        raise OSError("no space left on device")

    source = f"{connect(home.uri).get_run(run_id).info.artifact_uri}/model"
    with pytest.raises(RegistryError, match="no space left"):
        Registry(home.uri).promote("full", "champion", run_id, lambda: source, {}, full)
    assert list(connect(home.uri).search_model_versions("name = 'full'")) == []


def test_a_registry_that_does_not_answer(home) -> None:
    with pytest.raises(RegistryError, match="refused"):
        Registry("http://127.0.0.1:9").rollback("quick", "champion")


def test_a_promoted_file_shows_all_that_may_be_scaled(home, store, tmp_path) -> None:
    """It says how to train it, with checkpoints; an option changes nothing until its value is changed."""
    done = promote(store, "quick", folder=tmp_path / "my files", name="scaled", home=home.home)
    text = done.file.read_text()
    assert f"trimtab train '{tmp_path}/my files/scaled.yaml' --home {home.home}" in text.splitlines()[1]
    assert re.search(r"(?m)^  checkpoint_every: 10 +# Steps between checkpoints", text)
    assert re.search(r"(?m)^  steps: 60 +# ", text)
    shown = re.findall(r"(?m)^  (?:# )?(\w+): \S+ +# \S+", text)
    assert set(Production.model_fields) == set(shown)
    assert re.search(r"(?m)^  # workers: 1 +# Learner workers", text)
    before = load_promoted(done.file)
    assert before.config().checkpoint_every == 10
    done.file.write_text(re.sub(r"(?m)^  # (\w+):", r"  \1:", text))
    assert load_promoted(done.file).config() == before.config()
    done.file.write_text(text.replace("  # workers: 1", "  workers: 4"))
    assert load_promoted(done.file).config().learner.workers == 4
