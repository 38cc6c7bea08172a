"""The scalar that a sweep optimises: equal compute, mean over seeds."""

from __future__ import annotations

import pytest

from trimtab.sweepdir.objective import Curves, area


def curves(budget: int = 20, rung: int = 10) -> Curves:
    return Curves(budget=budget, rung=rung)


def test_the_area_is_the_mean_height_of_the_curve():
    assert area([0, 10, 20], [0.0, 1.0, 1.0]) == pytest.approx(0.75)
    assert area([5], [0.3]) == 0.3
    with pytest.raises(ValueError, match="empty"):
        area([], [])


def test_the_score_is_the_mean_over_seeds_of_the_area():
    found = curves()
    assert found.score() is None
    for seed, level in ((0, 1.0), (1, 0.5)):
        for rollouts, accuracy in ((0, 0.0), (10, level), (20, level)):
            found.add(seed, rollouts, accuracy)
        found.finish(seed)
    assert found.score() == pytest.approx((0.75 + 0.375) / 2)
    found.add(1, 20, 1.5)
    assert found.score() == pytest.approx((0.75 + 0.625) / 2), "a repeated evaluation replaces the first"


def test_a_seed_counts_by_what_it_has_spent():
    """Otherwise a seed's accuracy before training, which says nothing, would halve the score at its start."""
    found = curves()
    for rollouts, accuracy in ((0, 0.0), (10, 1.0), (20, 1.0)):
        found.add(0, rollouts, accuracy)
    found.finish(0)
    found.add(1, 0, 0.0)
    assert found.score() == pytest.approx(0.75)
    found.add(1, 10, 1.0)
    assert found.score() == pytest.approx((0.75 + 0.5 * 0.5) / 1.5)


def test_rungs_are_the_same_for_strategies_that_spend_a_little_less():
    exact, frugal = curves(), curves()
    for found, last in ((exact, 20), (frugal, 18)):
        found.add(0, 0, 0.1)
        assert found.reached() == 0
        found.add(0, last // 2 + 2, 0.2)
        assert found.reached() == 10
        found.add(0, last, 0.3)
        found.finish(0)
        found.add(1, 0, 0.1)
        assert found.reached() == 20
    assert exact.metrics()["rung"] == frugal.metrics()["rung"] == 20


def test_a_curve_that_begins_late_is_averaged_over_what_it_covers():
    assert area([10, 30, 40], [0.0, 1.0, 0.5]) == pytest.approx((20 * 0.5 + 10 * 0.75) / 30)


def test_before_any_training_the_score_is_the_mean_of_the_seeds():
    found = curves()
    found.add(0, 0, 0.2)
    found.add(1, 0, 0.6)
    assert found.score() == pytest.approx(0.4)
    assert not found.has_finished(0)
    found.finish(0)
    assert found.has_finished(0)
    assert not found.has_finished(1)


def test_tune_sees_the_score_the_last_accuracy_and_the_compute_of_all_seeds():
    found = curves()
    before = found.metrics()
    assert set(before) == {"score", "accuracy", "rollouts", "rung"}
    assert before["score"] != before["score"], "not a number before the first evaluation"
    assert before["accuracy"] != before["accuracy"]
    assert (before["rollouts"], before["rung"]) == (0, 0)
    for seed, rollouts, accuracy in ((0, 0, 0.0), (0, 20, 0.5), (1, 13, 1.0), (1, 0, 0.2)):
        found.add(seed, rollouts, accuracy)
    expected = {"score": (0.25 * 20 + 0.6 * 10) / 30, "accuracy": 0.75, "rollouts": 33.0, "rung": 30.0}
    assert found.metrics() == pytest.approx(expected)
    found.add(1, 39, 1.0)
    assert found.metrics()["rung"] == 40, "a run counts its own budget at most"
