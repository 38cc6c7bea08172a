"""A comparison in words: the last line of `make sweep`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.strategies.warmup import WarmUpPlan
from trimtab.decide.compare.read import TrackedRun, TrackedSweep
from trimtab.decide.compare.render import differing_text, heading, legend_of_names, name_text, tuning_text
from trimtab.decide.compare.statistics import Curve
from trimtab.decide.compare.table import Comparison, compare
from trimtab.decide.compare.tuning import not_tuned
from trimtab.decide.compare.words import finding

RISE = np.array([0.40, 0.45, 0.50, 0.55, 0.60, 0.63, 0.65])


def run(number: int, seed: int, gain: float, family: str = "", noise: float = 0.003) -> TrackedRun:
    rng = np.random.default_rng([number, seed])
    accuracy = RISE + gain * np.linspace(0, 1, 7) + rng.normal(0, noise, 7)
    role = "reference" if number == 0 else "candidate"
    label = "dapo" if number == 0 else f"v05(k={number})"
    return TrackedRun(
        run_id=f"{number}-{seed}", trial=f"trial-{number}", number=number, label=label,
        family=family or label.partition("(")[0], role=role, seed=seed, status="finished", error=None,
        checkpoint=None, parameters={}, strategy=str(number), shared={}, budget=7680, rollouts=7680.0,
        tokens=1.0, seconds=1.0, curve=Curve(np.linspace(0, 7680, 7), accuracy),
    )  # fmt: skip


def compared(gains: dict[int, float], seeds: int = 5, purpose: str = "confirm", **more: Any) -> Comparison:
    runs = [run(number, seed, gain, **more) for number, gain in gains.items() for seed in range(seeds)]
    sweep = TrackedSweep("quick", "id", "dapo", purpose, None, "test", "rollouts", tuple(runs))
    return compare(sweep)


def test_what_was_found_at_what_saving_and_how_sure() -> None:
    found = compared({0: 0.0, 1: 0.15, 2: 0.0})
    best = found.rows[1]
    assert best.ratio is not None
    assert best.ratio.low is not None
    assert best.ratio.high is not None
    assert best.ratio.low <= best.ratio.value <= best.ratio.high
    text = finding(found)
    least = "at least " if best.ratio.bound == "<" else ""
    fewer = f"{least}{1 - best.ratio.value:.0%} fewer rollouts"
    ends = f"[{100 * (1 - best.ratio.high):.0f}, {100 * (1 - best.ratio.low):.0f}]"
    assert text.startswith(f"established: v05(k=1) reaches dapo's level with {fewer} {ends} (+0.0")
    assert "accuracy over the curve at equal rollouts, 5 paired seeds, p < .001 after Holm over 2; " in text
    assert "0% more seconds a run" in text
    assert text.endswith(". Ship it: trimtab promote quick")


def test_what_is_established_is_named_and_not_the_noisiest() -> None:
    """A larger mean difference that may be luck does not take the place of one that is established."""
    runs = [run(n, seed, gain) for n, gain in {0: 0.0, 1: 0.1}.items() for seed in range(5)]
    runs += [run(2, seed, 1.0 * (seed == 0)) for seed in range(5)]
    found = compare(TrackedSweep("q", "id", "dapo", "confirm", "q", "test", "rollouts", tuple(runs)))
    assert {row.number: row.verdict for row in found.rows}[2] == "not established"
    assert found.rows[1].number == 2, "its mean is the largest"
    assert finding(found).startswith("established: v05(k=1) ")


def test_nothing_found_is_said_so() -> None:
    text = finding(compared({0: 0.0, 1: 0.0, 2: 0.0}, noise=0.02))
    assert text.startswith("not established: no configuration is better than dapo at 5%. The closest: v05")
    assert text.endswith("More seeds would tell: trimtab confirm quick --seeds 10")


def test_worse_than_the_reference_is_said_so() -> None:
    assert "every configuration is worse than dapo" in finding(compared({0: 0.0, 1: -0.1}))


def test_a_search_only_leads() -> None:
    text = finding(compared({0: 0.0, 1: 0.1}, purpose="search"), Path("elsewhere"))
    assert text.startswith("lead: v05(k=1) ")
    assert "Search only, not confirmed: trimtab confirm quick --home" in text


def test_a_run_that_never_gets_there_saves_nothing() -> None:
    text = finding(compared({0: 0.0, 1: -0.1}, purpose="search"))
    assert text.startswith("lead: v05(k=1) against dapo, whose level not every run of it reached (-0.0")


def test_long_labels_are_cut_and_explained() -> None:
    found = compared({0: 0.0, 1: 0.1})
    long = replace(found.rows[1], label="v05(k=1,alpha=0.027,prior=strata) lr=0.0004")
    assert name_text(long) == "v05 #1"
    assert name_text(found.rows[1]) == "1 v05(k=1)"
    assert legend_of_names([found.rows[0], long]) == ["v05 #1: v05(k=1,alpha=0.027,prior=strata) lr=0.0004"]


def test_one_seed_has_nothing_to_say() -> None:
    assert finding(compared({0: 0.0, 1: 0.1}, seeds=1, purpose="search")).startswith("nothing to compare yet")


@pytest.mark.parametrize(("numbers", "unfair"), [((1,), False), ((1, 2, 3), True)])
def test_a_reference_with_fewer_configurations_is_not_tuned(numbers: tuple[int, ...], unfair: bool) -> None:
    found = compared(dict.fromkeys((0, *numbers), 0.0), purpose="search")
    assert [(one.family, one.configurations) for one in found.tuning] == [("dapo", 1), ("v05", len(numbers))]
    said = not_tuned(found.tuning)
    assert (said is not None) == unfair
    if said:
        assert said.startswith("reference not tuned: dapo ran 1 configuration, v05 3")


def test_the_best_setting_of_each_is_named() -> None:
    runs = [run(0, 0, 0.0), run(1, 0, 0.02), run(2, 0, 0.1)]
    runs = [replace(one, parameters={f"{one.family}.learner.lr": f"{one.number + 1}e-4"}) for one in runs]
    found = compare(TrackedSweep("quick", "id", "dapo", "search", None, "test", "rollouts", tuple(runs)))
    text = tuning_text(found)
    assert "dapo: 1 configuration, best 0 at learner.lr=1e-4 (" in text
    assert "v05: 2 configurations, best 2 at learner.lr=3e-4 (" in text
    assert "reference not tuned" in text


@pytest.mark.parametrize(
    ("gains", "edge"),
    [
        ({1: 0.0, 2: 0.05, 3: 0.1}, True),
        ({1: 0.1, 2: 0.05, 3: 0.0}, True),
        ({1: 0.0, 2: 0.1, 3: 0.0}, False),
        ({1: 0.0, 2: 0.1}, False),  # two values have no middle
    ],
)
def test_a_best_value_beyond_which_nothing_was_tried_is_pointed_out(
    gains: dict[int, float], edge: bool
) -> None:
    runs = [run(0, 0, 0.0), *(run(number, 0, gain) for number, gain in gains.items())]
    runs = [
        replace(one, parameters={"v05.learner.lr": f"{one.number}e-4", "v05.prior": "strata"}) for one in runs
    ]
    found = compare(TrackedSweep("quick", "id", "dapo", "search", None, "test", "rollouts", tuple(runs)))
    best = max(gains, key=lambda number: gains[number])
    said = f"nothing was tried beyond learner.lr={best}e-4: widen the range"
    assert (said in tuning_text(found)) == edge


def test_a_search_says_above_by_the_rule_of_a_confirmation() -> None:
    """One of many whose own interval excludes 0 is not `above` if its p value after Holm's is not small."""
    gains = dict.fromkeys(range(12), 0.0) | {5: 0.012}
    searched, confirmed = (compared(gains, seeds=4, purpose=purpose) for purpose in ("search", "confirm"))
    words = {"better": "above", "worse": "below"}
    assert [words.get(row.verdict, row.verdict) for row in confirmed.rows] == [
        r.verdict for r in searched.rows
    ]
    alone = next(row for row in searched.rows if row.number == 5)
    assert alone.difference is not None
    assert alone.difference.low > 0
    assert alone.p_adjusted is not None
    assert alone.p_adjusted > 0.05
    assert alone.verdict == "not established"


def test_sweeps_that_learn_by_other_settings_are_compared_and_it_is_said() -> None:
    def sweep(name: str, lr: float) -> TrackedSweep:
        settings = {"learner.lr": lr, "loss.clip_high": 0.28}
        runs = [replace(run(n, seed, 0.1 * n), settings=settings) for n in (0, 1) for seed in range(3)]
        return TrackedSweep(name, name, "dapo", "search", None, "validation", "tokens", tuple(runs))

    found = compare([sweep("a", 1e-4), sweep("b", 2e-4)])
    assert found.differing == ("learner.lr: 0.0001 in a, 0.0002 in b",)
    assert differing_text(found).endswith("learner.lr: 0.0001 in a, 0.0002 in b")
    assert compare([sweep("a", 1e-4), sweep("b", 1e-4)]).differing == ()
    assert heading(found).startswith(
        "a, b against dapo at equal tokens, runs of 7,680 rollouts · search only"
    )


def test_the_references_trials_under_fresh_seeds_are_further_seeds_of_it() -> None:
    runs = [run(number, seed, 0.1 * number) for number in (0, 1) for seed in (0, 1)]
    again = [
        replace(run(number, seed, 0.1 * number), number=2 + number, trial=f"trial-{2 + number}")
        for number in (0, 1)
        for seed in (2, 3)
    ]
    found = compare(TrackedSweep("quick", "id", "dapo", "search", None, "test", "rollouts", (*runs, *again)))
    assert sorted((row.number, row.seeds, row.pairs) for row in found.rows) == [
        (0, (0, 1, 2, 3), 4),
        (1, (0, 1), 2),
        (3, (2, 3), 2),
    ]
    assert [(one.family, one.configurations) for one in found.tuning] == [("dapo", 1), ("v05", 1)]


def test_what_was_warm_up_does_not_go_by_its_name_alone() -> None:
    never, half, little = (WarmUpPlan(updates, "rloo") for updates in (60, 30, 6))
    runs = [run(number, seed, 0.1 * number) for number in range(4) for seed in range(3)]
    plans = {0: None, 1: little, 2: half, 3: never}
    runs = [replace(one, updates=60, warmup=plans[one.number]) for one in runs]
    found = compare(TrackedSweep("quick", "id", "dapo", "search", None, "test", "rollouts", tuple(runs)))
    assert finding(found).startswith(
        "lead: v05(k=3) (all warm-up under rloo: its learned prior never acted) "
    )
    named = {row.number: name_text(row) for row in found.rows}
    assert named == {
        0: "0 dapo",
        1: "1 v05(k=1)\n(10% warm-up under rloo)",
        2: "2 v05(k=2)\n(50% warm-up under rloo)",
        3: "3 v05(k=3)\n(all warm-up under rloo: its learned prior never acted)",
    }
