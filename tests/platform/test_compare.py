"""The comparison, recomputed from MLflow alone and checked against the journal's own numbers."""

import json

import numpy as np
import pytest
from rich.console import Console

from trimtab.decide.compare.read import Store
from trimtab.decide.compare.render import heading, plain, render, verdict_text
from trimtab.decide.compare.table import Comparison, compare
from trimtab.errors import NotFoundError, TrackingError
from trimtab.tracking.tracker import Tracker

X = np.arange(7) * 1280.0
SHAPE = np.array([0.50, 0.54, 0.58, 0.60, 0.62, 0.63, 0.64])


def comparison(uri: str, name: str) -> Comparison:
    return compare(Store(uri).sweep(name))


def sweep(journal, uri, seeds=(0, 1, 2), status="finished"):
    """DAPO, a configuration that is higher by .05 at every point but for noise, and one that stays flat."""
    rng = np.random.default_rng(0)
    curves = {}
    for number, (trial, base) in enumerate(
        [("ref", SHAPE), ("good", SHAPE + 0.05), ("flat", SHAPE * 0 + 0.5)]
    ):
        journal.start(trial, number, **({"v05.alpha": 0.1 * number} if number else {}))
        for seed in seeds:
            curves[trial, seed] = np.clip(base + rng.normal(0, 0.004, 7), 0, 1)
            journal.run(trial, seed, curves[trial, seed].tolist())
        journal.finish(trial)
    tracker = Tracker(journal.folder, uri, "v05_small", journal.spec)
    tracker.start()
    assert tracker.close(status) == []
    return curves


def test_the_table_says_what_the_curves_say(journal, store_uri) -> None:
    curves = sweep(journal, store_uri)
    found = comparison(store_uri, "v05_small")
    rows = {row.trial: row for row in found.rows}
    assert [row.trial for row in found.rows] == ["ref", "good", "flat"]
    finals = {trial: [curves[trial, seed][-3:].mean() for seed in (0, 1, 2)] for trial in rows}
    assert found.level == pytest.approx(np.mean(finals["ref"]))
    for trial, row in rows.items():
        assert row.final_mean == pytest.approx(np.mean(finals[trial]))
        assert row.final_sd == pytest.approx(np.std(finals[trial], ddof=1))
        assert row.seeds == (0, 1, 2)
        assert row.rollouts == 7680
        assert row.tokens == 30000
    assert rows["good"].parameters == {"v05.alpha": "0.1"}
    good = rows["good"]
    assert good.crossing.censored == 0
    assert good.ratio.value == pytest.approx(good.crossing.compute / rows["ref"].crossing.compute)
    assert good.ratio.value < 0.8
    areas = [np.trapezoid(curves["good", s] - curves["ref", s], X) / X[-1] for s in (0, 1, 2)]
    assert good.difference.mean == pytest.approx(np.mean(areas))
    assert good.difference.low > 0
    assert good.verdict == verdict_text(good) == "above"


def test_runs_that_never_reach_the_level_are_marked_not_dropped(journal, store_uri) -> None:
    sweep(journal, store_uri)
    flat = next(row for row in comparison(store_uri, "v05_small").rows if row.trial == "flat")
    assert flat.crossing.compute == 7680
    assert flat.crossing.censored == 3
    assert flat.ratio.bound in (">", "?")
    assert flat.verdict == "below"


def test_two_seeds_are_not_enough_evidence(journal, store_uri) -> None:
    sweep(journal, store_uri, seeds=(0, 1))
    good = next(row for row in comparison(store_uri, "v05_small").rows if row.trial == "good")
    assert (good.verdict, good.pairs) == ("not enough evidence", 2)
    assert verdict_text(good) == "not enough evidence: 2 seeds"


def test_seeds_are_paired(journal, store_uri) -> None:
    """A seed that only one of the two ran tells nothing about their difference."""
    journal.start("ref", 0)
    for seed in (0, 1):
        journal.run("ref", seed, SHAPE.tolist())
    journal.finish("ref")
    journal.start("good", 1)
    for seed in (1, 2):
        journal.run("good", seed, (SHAPE + 0.1).tolist())
    journal.finish("good")
    Tracker.start(tracker := Tracker(journal.folder, store_uri, "v05_small", journal.spec))
    tracker.close("finished")
    good = comparison(store_uri, "v05_small").rows[-1]
    assert good.difference is None
    assert (good.verdict, good.pairs) == ("not enough evidence", 1)
    assert verdict_text(good) == "not enough evidence: 1 seed"
    shown = plain(comparison(store_uri, "v05_small"))["rows"][-1]
    assert shown["verdict"] == "not enough evidence: 1 seed"
    assert "pairs" not in shown


def test_runs_that_did_not_finish_are_counted_apart(journal, store_uri) -> None:
    journal.start("ref", 0)
    journal.run("ref", 0, SHAPE.tolist())
    journal.finish("ref")
    journal.start("bad", 1)
    journal.run("bad", 0, SHAPE[:3].tolist(), status="stopped")
    journal.finish("bad", "stopped")
    Tracker.start(tracker := Tracker(journal.folder, store_uri, "v05_small", journal.spec))
    tracker.close("finished")
    bad = comparison(store_uri, "v05_small").rows[-1]
    assert bad.seeds == ()
    assert bad.unfinished == ("stopped",)
    assert bad.final_mean is None
    assert bad.ratio is None


def test_a_sweep_whose_reference_failed_still_has_a_table(journal, store_uri) -> None:
    journal.start("ref", 0)
    journal.finish("ref", "failed", "boom")
    journal.start("good", 1)
    journal.run("good", 0, SHAPE.tolist())
    journal.finish("good")
    Tracker.start(tracker := Tracker(journal.folder, store_uri, "v05_small", journal.spec))
    tracker.close("finished")
    found = comparison(store_uri, "v05_small")
    assert found.level is None
    assert found.rows[-1].final_mean == pytest.approx(SHAPE[-3:].mean())
    assert "no finished run" in text(found)


def text(found) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(found))
    return console.export_text()


def test_the_table_is_honest_about_what_it_is(journal, store_uri) -> None:
    sweep(journal, store_uri)
    found = comparison(store_uri, "v05_small")
    assert "search only: not confirmed" in heading(found)
    shown = text(found)
    assert "search only: not confirmed" in shown
    assert "(3 of 3 never)" in shown
    assert "dapo's level" in shown
    assert json.loads(json.dumps(plain(found)))["rows"][0]["label"] == "dapo"


def test_a_repeated_step_counts_once_as_it_was_last(journal, store_uri) -> None:
    journal.start("ref", 0)
    journal.run("ref", 0, [0.1] * 4, status=None)
    journal.run("ref", 0, SHAPE.tolist())
    journal.finish("ref")
    Tracker.start(tracker := Tracker(journal.folder, store_uri, "v05_small", journal.spec))
    tracker.close("finished")
    assert comparison(store_uri, "v05_small").level == pytest.approx(SHAPE[-3:].mean())


def test_unknown_sweep_and_missing_store_are_named(store_uri, tmp_path) -> None:
    with pytest.raises(NotFoundError, match="no sweep named 'nothing'"):
        comparison(store_uri, "nothing")
    with pytest.raises(NotFoundError, match="no tracking store"):
        comparison(f"sqlite:///{tmp_path}/absent.db", "v05_small")
    assert not (tmp_path / "absent.db").exists()


def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(TrackingError, match="does not answer"):
        comparison("http://127.0.0.1:9", "v05_small")


def test_the_tracked_sweep_knows_what_share_was_warm_up(journal, store_uri) -> None:
    journal.start("ref", 0)
    warm = journal.spec.trial.with_strategy({"preset": "poise", "warmup_updates": 15})
    journal.event(
        "warm", "trial_started", role="candidate", number=1, label="poise(k=2)",
        config=warm.model_dump(mode="json"), searched={}, seeds=[0],
    )  # fmt: skip
    for trial in ("ref", "warm"):
        journal.run(trial, 0, SHAPE.tolist())
        journal.finish(trial)
    tracker = Tracker(journal.folder, store_uri, "v05_small", journal.spec)
    tracker.start()
    assert tracker.close("finished") == []
    rows = {row.trial: row for row in comparison(store_uri, "v05_small").rows}
    assert (rows["ref"].warmup, rows["warm"].warmup) == (0.0, 0.25)
