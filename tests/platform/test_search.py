"""The searcher over real studies: states and order of trials, and that a killed driver loses nothing."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from trimtab.errors import NotFoundError, StorageError
from trimtab.search.searcher import StudySearcher
from trimtab.search.study import JOURNAL, create_studies, load_studies, open_storage
from trimtab.sweepspec.load import load_spec
from trimtab.sweepspec.spec import SweepSpec

STEP = 1280
"""Rollouts between two evaluations of the v05_small."""


def spec_with(tmp_path: Path, *overrides: str) -> SweepSpec:
    return load_spec("v05_small", [f"home={tmp_path}", *overrides])


def new(tmp_path: Path, *overrides: str) -> StudySearcher:
    spec = spec_with(tmp_path, *overrides)
    return StudySearcher(spec, create_studies(spec, "s", tmp_path))


def resumed(tmp_path: Path, *overrides: str) -> StudySearcher:
    spec = spec_with(tmp_path, *overrides)
    return StudySearcher(spec, load_studies(spec, "s", tmp_path))


def trials(tmp_path: Path, name: str = "s") -> list[optuna.trial.FrozenTrial]:
    found = optuna.load_study(study_name=name, storage=open_storage(None, tmp_path)).trials
    return [trial for trial in found if trial.state is not TrialState.WAITING]


def result(score: float, rung: int, *, finished: bool = False) -> dict[str, Any]:
    return {"score": score, "rung": float(rung), "finished": finished}


def run(searcher: StudySearcher, trial_id: str, score: float) -> dict[str, Any]:
    """Run one trial with this score at every rung, and return its job."""
    job = searcher.suggest(trial_id)
    assert job is not None
    for rung in range(0, 3 * 7680 + 1, STEP):
        if searcher.falls_behind(trial_id, result(score, rung)):
            searcher.on_trial_complete(trial_id, result(score, rung))
            return job
    searcher.on_trial_complete(trial_id, result(score, 3 * 7680, finished=True))
    return job


def test_the_reference_comes_first_then_the_papers_values_then_the_search(tmp_path):
    searcher = new(tmp_path)
    first, second, third = (searcher.suggest(f"t{n}") for n in range(3))
    assert (first["role"], first["label"], first["searched"]) == ("reference", "dapo", {})
    assert second["role"] == third["role"] == "candidate"
    assert second["searched"]["v05.group_size"] == 4
    assert second["searched"]["v05.alpha"] == pytest.approx(0.3173, abs=1e-4)
    assert third["searched"] != second["searched"]
    assert [c["number"] for c in (first, second, third)] == [0, 1, 2]
    assert [c["key"] for c in (first, second)] == ["trial-0000", "trial-0001"]


def test_the_reference_is_searched_with_as_many_trials_before_the_candidates(tmp_path):
    searcher = new(tmp_path, "reference.search={group_size: {choice: [4, 8, 16]}}", "search.trials=3")
    assert searcher.left == 6
    jobs = [searcher.suggest(f"t{n}") for n in range(7)]
    assert [job and job["role"] for job in jobs] == [
        "reference",
        *["tuned_reference"] * 2,
        *["candidate"] * 3,
        None,
    ]
    assert jobs[0]["searched"] == {"dapo.group_size": 8}
    sizes = [job["trial"]["strategy"]["budget"]["group_size"] for job in jobs[:3]]
    assert sorted(sizes) == [4, 8, 16], "each once"
    ran = [trial for trial in trials(tmp_path, "s/reference") if "job" in trial.user_attrs]
    assert len(ran) == 3


def test_ends_are_told_for_what_they_are(tmp_path):
    searcher = new(tmp_path)
    for n in range(6):
        searcher.suggest(f"t{n}")
    searcher.falls_behind("t2", result(0.4, STEP))
    searcher.falls_behind("t2", result(0.3, 2 * STEP))
    searcher.on_trial_complete("t0", result(0.5, 2 * STEP, finished=True))
    searcher.on_trial_complete("t1", result(0.6, 2 * STEP, finished=True))
    searcher.on_trial_complete("t2", result(0.3, 2 * STEP))
    searcher.on_trial_complete("t3", result(float("nan"), STEP, finished=True))
    searcher.on_trial_complete("t4", None, error=True)
    searcher.on_trial_complete("t5", None)
    assert [t.state for t in trials(tmp_path, "s/reference")] == [TrialState.COMPLETE]
    assert [t.state for t in trials(tmp_path)] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.FAIL,
        TrialState.FAIL,
    ]
    assert trials(tmp_path)[1].intermediate_values == {STEP: 0.4, 2 * STEP: 0.3}


def test_a_score_that_is_no_number_never_reaches_the_study(tmp_path):
    searcher = new(tmp_path)
    searcher.suggest("reference")
    searcher.suggest("t")
    assert not searcher.falls_behind("t", result(float("nan"), STEP))
    assert trials(tmp_path)[0].intermediate_values == {}


@pytest.mark.parametrize(
    "stopping",
    [
        f"{{type: asha, first_rung: {2 * STEP}, reduction_factor: 2}}",
        f"{{type: median, first_rung: {2 * STEP}, min_trials: 1}}",
    ],
)
def test_what_falls_behind_at_a_rung_is_pruned_and_the_reference_never(tmp_path, stopping):
    searcher = new(tmp_path, f"search.early_stopping={stopping}", "search.trials=3")
    run(searcher, "reference", 0.1)
    run(searcher, "good", 0.6)
    run(searcher, "bad", 0.2)
    run(searcher, "better", 0.7)
    good, bad, better = trials(tmp_path)
    (reference,) = trials(tmp_path, "s/reference")
    assert reference.state is good.state is better.state is TrialState.COMPLETE
    assert bad.state is TrialState.PRUNED
    assert max(bad.intermediate_values) == 2 * STEP, "at the first rung, not later"
    assert bad.intermediate_values == {0: 0.2, STEP: 0.2, 2 * STEP: 0.2}


def test_a_configuration_that_is_proposed_again_runs_under_fresh_seeds(tmp_path):
    overrides = ["candidates.0={strategy: v05, trials: 3}", "search={}"]
    searcher = new(tmp_path, *overrides)
    jobs = [searcher.suggest(f"t{n}") for n in range(6)]
    assert [job["label"] for job in jobs] == ["dapo"] * 3 + ["v05(k=4)"] * 3
    assert [job["role"] for job in jobs[:3]] == ["reference"] * 3, "none of them may be stopped early"
    for own in (jobs[:3], jobs[3:]):
        assert len({json.dumps(job["trial"]) for job in own}) == 1
        assert [job["seeds"] for job in own] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert resumed(tmp_path, *overrides).left == 6, "all of them are still under way"


def test_what_the_sampler_draws_again_is_replaced_by_what_has_not_run(tmp_path):
    sizes = [2, 4, 8, 16]
    overrides = [
        f"candidates=[{{strategy: grpo, search: {{group_size: {{choice: {sizes}}}}}}}, {{strategy: rloo}}]",
        "search={trials: 5, sampler: random}",
    ]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = new(tmp_path / "a", *overrides)
    undisturbed = [run(whole, f"t{n}", 0.5) for n in range(6)]
    assert whole.suggest("one too many") is None
    drawn = [job["trial"]["strategy"]["budget"] for job in undisturbed if job["family"] == "grpo"]
    assert sorted(budget["group_size"] for budget in drawn) == sizes
    assert {tuple(job["seeds"]) for job in undisturbed} == {(0, 1, 2)}
    first = new(tmp_path / "b", *overrides)
    begun = [run(first, f"t{n}", 0.5) for n in range(4)]
    second = resumed(tmp_path / "b", *overrides)
    assert begun + [run(second, f"t{n}", 0.5) for n in range(4, 6)] == undisturbed


def test_an_extended_sweep_searches_who_is_searched_and_has_fewest(tmp_path):
    lr = "search: {learner.lr: {float: [1e-5, 1e-3], log: true}}"
    candidates = (
        f"candidates=[{{strategy: v05, {lr}, trials: 3}}, {{strategy: grpo, {lr}}}, {{strategy: rloo}}]"
    )
    before = new(tmp_path, candidates, "search={trials: 6}")
    assert Counter(run(before, f"t{n}", 0.5)["family"] for n in range(7)) == {
        "dapo": 1, "v05": 3, "grpo": 2, "rloo": 1
    }  # fmt: skip
    after = resumed(tmp_path, candidates, "search={trials: 9}")
    assert [run(after, f"t{n}", 0.5)["family"] for n in range(7, 10)] == ["grpo", "v05", "grpo"]
    assert after.suggest("one too many") is None


def test_the_sampler_goes_on_choosing_in_a_sweep_that_an_earlier_version_began(tmp_path):
    candidates = "candidates=[{strategy: v05, search: {alpha: {float: [0.1, 0.5]}}}, {strategy: grpo}]"
    new(tmp_path, candidates, "search={trials: 3}")
    study = optuna.load_study(study_name="s", storage=open_storage(None, tmp_path))
    study.set_user_attr("quotas", False)
    after = resumed(tmp_path, candidates, "search={trials: 3}")
    waiting = len(study.get_trials(states=(TrialState.WAITING,)))
    assert (after.left, waiting) == (4, 3)


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_a_resumed_search_goes_on_as_an_undisturbed_one(tmp_path, sampler):
    overrides = [
        f"search.sampler={sampler}",
        "search.trials=6",
        "candidates.0.search={alpha: {float: [0.01, 0.9], log: true}, k_max: {int: [4, 16]}}",
    ]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = new(tmp_path / "a", *overrides)
    undisturbed = [run(whole, f"t{n}", 0.1 * n)["trial"] for n in range(7)]
    first = new(tmp_path / "b", *overrides)
    begun = [run(first, f"t{n}", 0.1 * n)["trial"] for n in range(4)]
    second = resumed(tmp_path / "b", *overrides)
    assert second.left == 3
    rest = [run(second, f"t{n}", 0.1 * n)["trial"] for n in range(4, 7)]
    assert begun + rest == undisturbed
    assert second.suggest("one too many") is None
    assert len({json.dumps(trial) for trial in undisturbed}) == 7, (
        "a sampler that repeats itself searches nothing"
    )


def test_trials_under_way_are_handed_out_again_and_what_ended_stays(tmp_path):
    before = new(tmp_path)
    run(before, "t0", 0.5)
    run(before, "t1", 0.6)
    under_way = before.suggest("t2")
    before.falls_behind("t2", result(0.4, STEP))
    after = resumed(tmp_path)
    assert after.left == 4
    assert after.suggest("new id") == under_way
    assert not after.falls_behind("new id", result(0.4, STEP)), "a rung that was told is not told again"
    after.falls_behind("new id", result(0.45, 2 * STEP))
    after.on_trial_complete("new id", result(0.5, 3 * STEP, finished=True))
    assert [t.state for t in trials(tmp_path)] == [TrialState.COMPLETE] * 2
    assert trials(tmp_path)[1].intermediate_values == {STEP: 0.4, 2 * STEP: 0.45}
    numbers = [after.suggest(f"n{n}")["number"] for n in range(3)]
    assert numbers == [3, 4, 5]


def test_a_trial_that_was_asked_for_and_never_handed_out_is_replaced(tmp_path):
    searcher = new(tmp_path)
    run(searcher, "t0", 0.5)
    optuna.load_study(study_name="s", storage=open_storage(None, tmp_path)).ask()
    after = resumed(tmp_path)
    assert after.left == 5
    assert [t.state for t in trials(tmp_path)] == [TrialState.FAIL]


def test_a_torn_line_at_the_end_of_the_journal_costs_that_line_alone(tmp_path):
    searcher = new(tmp_path)
    run(searcher, "t0", 0.5)
    run(searcher, "t1", 0.6)
    with (tmp_path / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code": 6, "worker_id": "x", "trial_id')
    after = resumed(tmp_path)
    assert after.left == 4
    run(after, "t2", 0.7)
    assert [t.state for t in trials(tmp_path)] == [TrialState.COMPLETE] * 2


def test_a_full_disk_costs_what_could_not_be_written_and_the_sweep_goes_on_once_there_is_room(small_disk):
    searcher = new(small_disk)
    run(searcher, "t0", 0.5)
    under_way = searcher.suggest("t1")
    room = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(b"x" * (room - room % 4096))
    told = 0
    with suppress(OSError):
        for told in range(1000):
            searcher.falls_behind("t1", result(0.4, told))
    assert 0 < told < 999, "the disk was full before the end, and not at once"
    (small_disk / "filler").unlink()
    after = resumed(small_disk)
    assert after.left == 5
    assert after.suggest("t2") == under_way
    assert sorted(trials(small_disk)[0].intermediate_values) == list(range(told))
    after.on_trial_complete("t2", result(0.5, 3 * 7680, finished=True))
    assert [t.state for t in trials(small_disk)] == [TrialState.COMPLETE]


def test_a_lock_that_a_killed_driver_held_does_not_keep_others_waiting(tmp_path):
    searcher = new(tmp_path)
    run(searcher, "t0", 0.5)
    (tmp_path / f"{JOURNAL}.lock").symlink_to(tmp_path / JOURNAL)
    assert resumed(tmp_path).suggest("t1") is not None


@pytest.mark.parametrize("kept", range(8))
def test_a_driver_that_ended_while_it_made_the_studies_is_begun_again(tmp_path, kept):
    """At whichever line of the storage: what the sweep runs is what it would have run."""
    enqueue = "candidates=[{strategy: v05, search: {alpha: {float: [0.01, 0.9], log: true}}, enqueue: "
    several = enqueue + "[{alpha: 0.2}, {alpha: 0.3}]}]"
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for folder in (whole, torn):
        folder.mkdir()
    undisturbed = new(whole, several)
    lines = (whole / JOURNAL).read_bytes().splitlines(keepends=True)
    assert len(lines) == 7
    if kept:
        (torn / JOURNAL).write_bytes(b"".join(lines[:kept]) + b'{"op_code": ')
    again = resumed(torn, several)
    for n in range(4):
        first, second = (searcher.suggest(f"t{n}") for searcher in (undisturbed, again))
        assert first is not None
        assert second is not None
        assert first == second


def test_names_and_addresses_that_cannot_be_used(tmp_path):
    new(tmp_path)
    with pytest.raises(StorageError, match=r"'s'.*resume"):
        new(tmp_path)
    spec = spec_with(tmp_path)
    for folder in (tmp_path, tmp_path / "elsewhere"):
        (folder / "trials" / "trial-0000").mkdir(parents=True)
    with pytest.raises(NotFoundError, match="other"):
        load_studies(spec, "other", tmp_path)
    with pytest.raises(NotFoundError, match=r"has run, but .*elsewhere/study\.journal is gone"):
        load_studies(spec, "s", tmp_path / "elsewhere")
    down = spec.model_copy(update={"storage": "postgresql://user:secret@127.0.0.1:9/none"})
    with pytest.raises(StorageError, match="storage: postgresql") as caught:
        create_studies(down, "s", tmp_path)
    assert "secret" not in str(caught.value)


def test_a_sweep_that_an_earlier_version_began_is_resumed(tmp_path):
    """Its jobs name no family."""
    searcher = new(tmp_path)
    for n in range(2):
        searcher.suggest(f"t{n}")
    for asked in searcher._asked.values():
        old = {key: value for key, value in asked.job.items() if key != "family"}
        asked.trial.set_user_attr("job", old)
    again = resumed(tmp_path)
    assert [again.suggest(f"t{n}")["family"] for n in range(2)] == ["dapo", "v05"]
