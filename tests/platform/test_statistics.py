"""Comparison statistics: known answers, and what must hold for any curve."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trimtab.decide.compare.statistics import (
    WINDOW,
    Crossing,
    Curve,
    Ratio,
    area,
    area_difference,
    crossing_ratio,
    final_accuracy,
    first_crossing,
    holm,
    mean_crossing,
    paired_interval,
    ratio_interval,
    smooth,
)

BUDGET = 7680.0
accuracies = st.lists(st.floats(0, 1), min_size=WINDOW, max_size=20)


def curve(accuracy: list[float] | np.ndarray) -> Curve:
    values = np.asarray(accuracy, dtype=np.float64)
    return Curve(np.linspace(0, BUDGET, len(values)), values)


def test_smoothing_starts_at_the_third_evaluation() -> None:
    smoothed = smooth(curve([0.0, 0.3, 0.6, 0.9]))
    assert smoothed.compute_E == pytest.approx([2 * BUDGET / 3, BUDGET])
    assert smoothed.accuracy_E == pytest.approx([0.3, 0.6])


def test_fewer_evaluations_than_the_window_cannot_cross() -> None:
    assert first_crossing(curve([1.0, 1.0]), 0.5) is None


def test_crossing_lies_between_the_points_around_it() -> None:
    # Smoothed: .2, .4, .6 at 2, 3 and 4 quarters of the budget; .5 lies half-way between the last two.
    assert first_crossing(curve([0.0, 0.2, 0.4, 0.6, 0.8]), 0.5) == pytest.approx(BUDGET * 0.875)


def test_a_peak_counts_even_if_the_curve_falls_again() -> None:
    found = first_crossing(curve([0.0, 0.9, 0.9, 0.9, 0.0, 0.0, 0.0]), 0.8)
    assert found is not None
    assert found < BUDGET * 0.51


@given(accuracies, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_level_is_never_reached_earlier(values: list[float], one: float, two: float) -> None:
    low, high = sorted([one, two])
    early, late = first_crossing(curve(values), low), first_crossing(curve(values), high)
    if late is not None:
        assert early is not None
        assert early <= late + 1e-6


@given(accuracies)
def test_every_curve_reaches_its_own_final_accuracy(values: list[float]) -> None:
    found = first_crossing(curve(values), final_accuracy(np.asarray(values)))
    assert found is not None
    assert 0 <= found <= BUDGET + 1e-6


@given(accuracies, st.floats(1, 1e6))
def test_crossing_scales_with_compute(values: list[float], factor: float) -> None:
    own = curve(values)
    scaled = Curve(own.compute_E * factor, own.accuracy_E)
    level = final_accuracy(own.accuracy_E)
    first, second = first_crossing(own, level), first_crossing(scaled, level)
    assert first is not None
    assert second == pytest.approx(first * factor, rel=1e-9)


def test_runs_that_never_cross_count_as_the_budget_and_are_marked() -> None:
    crossing = mean_crossing([curve([0.0, 0.5, 1.0, 1.0, 1.0]), curve([0.0] * 5)], 0.4, BUDGET)
    assert crossing.censored == 1
    assert crossing.runs == 2
    assert crossing.compute > BUDGET / 2


@pytest.mark.parametrize(("own", "reference", "bound"), [(0, 0, "="), (1, 0, ">"), (0, 1, "<"), (1, 1, "?")])
def test_ratio_says_which_side_is_known(own: int, reference: int, bound: str) -> None:
    ratio = crossing_ratio(Crossing(3000, 3, own), Crossing(6000, 3, reference))
    assert ratio.value == pytest.approx(0.5)
    assert ratio.bound == bound


def test_identical_methods_have_a_ratio_around_one() -> None:
    """Crossing against crossing is fair; crossing against the whole budget would give about .6 to .8."""
    rng = np.random.default_rng(0)
    shape = 0.45 + 0.25 * (1 - np.exp(-np.linspace(0, 3, 13)))

    def runs() -> list[Curve]:
        return [curve(shape + rng.normal(0, 0.02) + rng.normal(0, 0.015, 13)) for _ in range(3)]

    ratios, naive = [], []
    for _ in range(300):
        reference, other = runs(), runs()
        level = float(np.mean([final_accuracy(run.accuracy_E) for run in reference]))
        own = mean_crossing(other, level, BUDGET)
        ratios.append(np.log(crossing_ratio(own, mean_crossing(reference, level, BUDGET)).value))
        naive.append(own.compute / BUDGET)
    assert abs(np.mean(ratios)) < 0.05
    assert np.mean(naive) < 0.9


@given(accuracies)
def test_area_lies_between_the_extremes(values: list[float]) -> None:
    height = area(curve(values), 0, BUDGET)
    assert min(values) - 1e-9 <= height <= max(values) + 1e-9


@given(accuracies, st.floats(-0.5, 0.5))
def test_a_curve_that_is_higher_everywhere_is_higher_by_as_much(values: list[float], shift: float) -> None:
    own = curve(values)
    assert area_difference(curve(own.accuracy_E + shift), own) == pytest.approx(shift, abs=1e-9)


def test_area_compares_only_the_compute_that_both_cover() -> None:
    long = curve([0.0, 0.5, 1.0])
    short = Curve(np.array([0.0, BUDGET / 2]), np.array([0.0, 0.5]))
    assert area_difference(short, long) == pytest.approx(0.0)


def test_interval_of_known_differences() -> None:
    interval = paired_interval([0.01, 0.02, 0.03])
    assert interval is not None
    assert interval.mean == pytest.approx(0.02)
    # t(.975, 2) = 4.302653; standard error = .01 / sqrt 3.
    assert interval.high - interval.mean == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-6)


def test_one_pair_has_no_interval() -> None:
    assert paired_interval([]) is None
    assert paired_interval([0.1]) is None


@pytest.mark.parametrize(("difference", "p"), [(0.0, 1.0), (0.1, 0.0), (-0.1, 0.0)])
def test_equal_differences_have_an_interval_without_width(difference: float, p: float) -> None:
    interval = paired_interval([difference] * 3)
    assert interval is not None
    assert (interval.low, interval.high, interval.p_value) == (interval.mean, interval.mean, p)
    assert interval.mean == pytest.approx(difference)


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=10))
def test_the_interval_is_the_textbooks(differences: list[float]) -> None:
    interval, pairs = paired_interval(differences), len(differences)
    assert interval is not None
    error = np.std(differences, ddof=1) / pairs**0.5
    half = stats.t.ppf(0.975, pairs - 1) * error
    assert interval.low == pytest.approx(np.mean(differences) - half, abs=1e-12)
    assert interval.high == pytest.approx(np.mean(differences) + half, abs=1e-12)
    if error > 0:
        expected = 2 * stats.t.sf(abs(np.mean(differences)) / error, pairs - 1)
        assert interval.p_value == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=10))
def test_the_interval_holds_its_mean_and_mirrors(differences: list[float]) -> None:
    interval, mirrored = paired_interval(differences), paired_interval([-value for value in differences])
    assert interval is not None
    assert mirrored is not None
    assert interval.low <= interval.mean <= interval.high
    assert mirrored.low == pytest.approx(-interval.high)


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        interval = paired_interval(rng.normal(0.1, 1.0, 5))
        assert interval is not None
        covered += interval.low <= 0.1 <= interval.high
    assert 0.93 <= covered / 1000 <= 0.97


def test_areas_are_compared_where_both_curves_have_begun() -> None:
    """A resumed or late curve has no start: what the other did before it says nothing about the two."""
    early = Curve(np.array([0.0, 100.0, 200.0]), np.array([0.0, 0.5, 0.5]))
    late = Curve(np.array([100.0, 200.0]), np.array([0.2, 0.2]))
    assert area_difference(early, late) == pytest.approx(0.3)
    assert area_difference(late, early) == pytest.approx(-0.3)


@given(st.lists(st.tuples(st.floats(1, 1e4), st.floats(1, 1e4)), min_size=2, max_size=8))
def test_a_ratios_interval_holds_the_ratio(pairs: list[tuple[float, float]]) -> None:
    own, reference = [a for a, _ in pairs], [b for _, b in pairs]
    found = ratio_interval(own, reference)
    if found is not None:
        assert found[0] - 1e-6 <= np.mean(own) / np.mean(reference) <= found[1] * (1 + 1e-6) + 1e-6


def test_a_ratios_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Paired noise, as seeds give: 95 % of 2,000 intervals of five pairs hold the true ratio of .4."""
    rng = np.random.default_rng(0)
    common = rng.normal(0, 400, (2000, 5))
    reference = 7000 + common + rng.normal(0, 300, (2000, 5))
    own = 2800 + 0.4 * common + rng.normal(0, 200, (2000, 5))
    ends = [ratio_interval(a, b) for a, b in zip(own, reference, strict=True)]
    covered = np.mean([found is not None and found[0] <= 0.4 <= found[1] for found in ends])
    assert 0.935 < covered < 0.965


def test_a_ratio_without_an_interval() -> None:
    assert ratio_interval([1.0], [2.0]) is None
    assert ratio_interval([1.0, 2.0], [-5.0, 5.0]) is None, "a reference that may be 0"
    assert ratio_interval([1.0, 1.0], [2.0, 2.0]) == (0.5, 0.5)


# ---- by hand ------------------------------------------------------------------------------------------


def test_final_accuracy_is_the_mean_of_the_last_three_evaluations() -> None:
    assert final_accuracy(np.array([0.0, 0.3, 0.6, 0.9])) == pytest.approx(0.6)
    assert final_accuracy(np.array([0.2, 0.4])) == pytest.approx(0.3), "of all, if there are fewer"


@pytest.mark.parametrize("evaluations", [0, 1, 2])
def test_no_point_is_smoothed_before_the_window_is_full(evaluations: int) -> None:
    smoothed = smooth(curve([0.5] * evaluations))
    assert smoothed.compute_E.shape == smoothed.accuracy_E.shape == (0,)


def test_a_window_makes_one_point_and_a_crossing_there_is_not_interpolated() -> None:
    assert smooth(curve([0.1, 0.2, 0.6])).accuracy_E == pytest.approx([0.3])
    assert first_crossing(curve([0.1, 0.2, 0.6]), 0.2) == BUDGET
    assert first_crossing(curve([0.1, 0.2, 0.6]), 0.31) is None


def test_a_level_that_is_missed_by_rounding_is_reached_at_the_point_and_not_beyond() -> None:
    steps = Curve(np.array([0.0, 1.0, 2.0, 10.0]), np.array([0.0, 0.0, 0.0, 1.5]))
    assert first_crossing(steps, 0.5 + 1e-13) == 10.0
    assert first_crossing(steps, 0.5 + 1e-11) is None
    assert first_crossing(steps, 0.125) == pytest.approx(4.0), "a quarter of the way from 2 to 10"


def test_a_mean_crossing_counts_an_end_for_each_run_that_never_crosses() -> None:
    """The first run crosses at half the budget, its first smoothed point; the second one never does."""
    reaches = curve([0.0, 0.5, 1.0, 1.0, 1.0])
    never = Curve(np.array([0.0, 500.0, 1000.0]), np.zeros(3))
    assert mean_crossing([reaches, never], 0.4, BUDGET) == Crossing((BUDGET / 2 + BUDGET) / 2, 2, 1)
    assert mean_crossing([reaches, never], 0.4, None) == Crossing((BUDGET / 2 + 1000.0) / 2, 2, 1)
    assert mean_crossing([never, never], 0.4, None) == Crossing(1000.0, 2, 2)
    assert mean_crossing([reaches], 0.4, None) == Crossing(BUDGET / 2, 1, 0)


def test_a_reference_that_is_there_at_once_makes_the_ratio_one_or_infinite() -> None:
    at_once, later = Crossing(0.0, 3, 0), Crossing(10.0, 3, 1)
    assert crossing_ratio(at_once, at_once) == Ratio(1.0, "=")
    assert crossing_ratio(later, at_once) == Ratio(float("inf"), "=")
    assert crossing_ratio(at_once, later) == Ratio(0.0, "<")
    assert crossing_ratio(Crossing(3.0, 3, 2), Crossing(4.0, 3, 0)) == Ratio(0.75, ">"), "two are censored"
    assert crossing_ratio(Crossing(0.5, 3, 0), Crossing(0.5, 3, 2)) == Ratio(1.0, "<")


def test_an_area_is_of_trapezoids_between_interpolated_ends() -> None:
    """From 1 to 6: .2 to .4 over one, .4 to .8 over four, halfway to the end: (.3 + 2.4) / 5."""
    found = Curve(np.array([0.0, 2.0, 6.0, 8.0]), np.array([0.0, 0.4, 0.8, 0.0]))
    assert area(found, 1.0, 6.0) == pytest.approx((0.3 * 1 + 0.6 * 4) / 5)
    assert area(found, 3.0, 5.0) == pytest.approx(0.6)
    assert area(found, 7.0, 7.0) == pytest.approx(0.4), "without width: the height there"
    assert area(found, 1.0, 0.0) == pytest.approx(0.2)


def test_a_difference_of_areas_is_over_the_compute_that_both_cover() -> None:
    """From 2 to 4: own .5 to 1, reference .2 to .4."""
    own = Curve(np.array([0.0, 4.0]), np.array([0.0, 1.0]))
    reference = Curve(np.array([2.0, 6.0]), np.array([0.2, 0.6]))
    assert area_difference(own, reference) == pytest.approx(0.75 - 0.3)


@pytest.mark.parametrize("pairs", [3, 6])
def test_at_the_ends_of_a_ratios_interval_the_test_of_the_pairs_just_decides(pairs: int) -> None:
    """Fieller: q is an end where own - q reference has a mean of exactly t standard errors."""
    rng = np.random.default_rng(pairs)
    reference_S = rng.normal(10.0, 1.0, pairs)
    own_S = 0.4 * reference_S + rng.normal(0.0, 0.5, pairs)
    ends = ratio_interval(own_S, reference_S)
    assert ends is not None
    assert ends[0] < own_S.mean() / reference_S.mean() < ends[1]
    for q in ends:
        assert stats.ttest_1samp(own_S - q * reference_S, 0.0).pvalue == pytest.approx(0.05)


def test_two_pairs_have_a_ratios_interval_and_a_reference_of_zero_has_none() -> None:
    assert ratio_interval([1.0, 2.0], [100.0, 101.0]) is not None
    assert ratio_interval([1.0, 2.0], [0.0, 0.0]) is None
    assert ratio_interval([], []) is None


def test_two_pairs_have_an_interval() -> None:
    """t(.975, 1) = 12.7062; standard error = .1; t = 2, so p = 1 - 2 / pi arctan 2."""
    interval = paired_interval([0.1, 0.3])
    assert interval is not None
    assert (interval.pairs, interval.mean) == (2, pytest.approx(0.2))
    assert interval.low == pytest.approx(0.2 - 1.27062, abs=1e-5)
    assert interval.high == pytest.approx(0.2 + 1.27062, abs=1e-5)
    assert interval.p_value == pytest.approx(1 - 2 / np.pi * np.arctan(2.0))


def test_differences_that_are_equal_but_for_rounding_have_no_width_and_larger_ones_have() -> None:
    rounded = paired_interval([0.3, 0.1 + 0.2, 0.3])
    assert rounded is not None
    assert (rounded.low, rounded.high, rounded.pairs, rounded.p_value) == (rounded.mean, rounded.mean, 3, 0.0)
    apart = paired_interval([1.0, 1.0 + 1e-9])
    assert apart is not None
    assert apart.low < 1.0 < 1.0 + 1e-9 < apart.high


@pytest.mark.parametrize(
    ("p", "family", "expected"),
    [
        # Sorted: .005 4, .01 3, .03 2, .04 1; the last may not be below the one before.
        ([0.01, 0.04, 0.03, 0.005], None, [0.03, 0.06, 0.06, 0.02]),
        ([0.01, 0.04, 0.03, 0.005], 6, [0.05, 0.12, 0.12, 0.03]),
        ([0.01, 0.04, 0.03, 0.005], 2, [0.03, 0.06, 0.06, 0.02]),
        ([0.6, 0.9], None, [1.0, 1.0]),
        ([], 3, []),
    ],
)
def test_holm_multiplies_by_the_comparisons_that_are_left(
    p: list[float], family: int | None, expected: list[float]
) -> None:
    """A family smaller than the comparisons given is no family; an adjusted p value is at most 1."""
    assert holm(p, family) == pytest.approx(expected)
