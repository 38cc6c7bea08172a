"""The searcher over a real study: what Tune's ends become, and that NaN never lingers."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from trimtab.objective import Curves, area
from trimtab.search import StudySearcher, create_study
from trimtab.spec import load_spec


@pytest.fixture
def searcher(tmp_path: Path) -> StudySearcher:
    spec = load_spec("quickstart", [f"home={tmp_path}"])
    return StudySearcher(spec, create_study(spec, "s", tmp_path))


def states(searcher: StudySearcher) -> list[TrialState]:
    return [t.state for t in searcher._study.trials if t.state is not TrialState.WAITING]


def test_the_reference_comes_first_then_the_papers_values_then_the_search(searcher):
    first, second, third = (searcher.suggest(f"t{n}") for n in range(3))
    assert (first["role"], first["label"], first["searched"]) == ("reference", "dapo", {})
    assert second["role"] == third["role"] == "candidate"
    assert second["searched"]["v05.group_size"] == 4
    assert second["searched"]["v05.alpha"] == pytest.approx(0.3173, abs=1e-4)
    assert third["searched"] != second["searched"]
    assert [c["number"] for c in (first, second, third)] == [0, 1, 2]


def test_ends_are_told_for_what_they_are(searcher):
    for n in range(5):
        searcher.suggest(f"t{n}")
    searcher.on_trial_result("t1", {"score": 0.4, "rollouts": 100.0})
    searcher.on_trial_complete("t0", {"score": 0.5, "rollouts": 200.0, "finished": True})
    searcher.on_trial_complete("t1", {"score": 0.3, "rollouts": 200.0, "finished": False})
    searcher.on_trial_complete("t2", {"score": float("nan"), "rollouts": 100.0, "finished": True})
    searcher.on_trial_complete("t3", None, error=True)
    searcher.on_trial_complete("t4", None)
    assert states(searcher) == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.FAIL,
        TrialState.FAIL,
    ]
    assert searcher._study.trials[1].intermediate_values == {100: 0.4, 200: 0.3}


def test_a_second_study_of_the_same_name_is_refused(searcher, tmp_path):
    import optuna

    spec = load_spec("quickstart", [f"home={tmp_path}"])
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        create_study(spec, "s", tmp_path)


def test_the_objective_is_the_mean_height_of_the_curve():
    assert area([0, 10, 20], [0.0, 1.0, 1.0]) == pytest.approx(0.75)
    assert area([5], [0.3]) == 0.3
    curves = Curves(budget=20, seeds=[0, 1])
    assert curves.score() is None
    for rollouts, accuracy in ((0, 0.0), (10, 1.0), (20, 1.0)):
        curves.add(0, rollouts, accuracy)
    assert curves.score() == pytest.approx(0.75)
    curves.add(1, 0, 0.25)
    assert curves.score() == pytest.approx(0.5)
    assert curves.figures()["rollouts"] == 20
    curves.add(1, 0, 0.75)
    assert curves.score() == pytest.approx(0.75), "a repeated evaluation replaces the first"
