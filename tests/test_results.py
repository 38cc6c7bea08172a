"""The page of results: its specs run, its claims name arms that exist, their intervals judge them."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import cast

import numpy as np
import optuna
import pytest

from benchmarks.results.claims import CLAIMS, Beds, Claim, Found, Range
from benchmarks.results.data import _is_hard
from benchmarks.results.knobs import _across, _fanova, _within
from benchmarks.results.oracle import Oracle
from benchmarks.results.run import SOURCES, SPECS, Source
from trainables.strategies.batch import Batch, Pool, RolloutBudget
from trimtab.sweepspec.load import load_spec


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_every_arm_is_tuned_alike(source: Source) -> None:
    spec = load_spec(SPECS / f"{source.name}.yaml")
    assert spec.name == source.sweep
    if source.confirmed:
        assert spec.confirm.each
        assert spec.confirm.seeds == 8
        assert spec.candidate_trials == 4 * len(spec.candidates), "four learning rates each"
        assert spec.reference_trials == 4
    labels = [spec.reference_label, *(candidate.label for candidate in spec.candidates)]
    assert len(set(labels)) == len(labels)


class _Arms(dict[str, object]):
    """Records which arms a claim asks for; holds none."""

    def __init__(self, asked: set[str]) -> None:
        self.asked = asked

    def __getitem__(self, name: str) -> object:
        self.asked.add(name)
        raise KeyError(name)


class _Bed:
    def __init__(self) -> None:
        self.asked: set[str] = set()
        self.arms = _Arms(self.asked)

    def against(self, arm: str) -> object:
        return self.arms[arm]

    hard_rate = None

    def mean_of(self, metric: str, since: float = 0.0) -> None:
        return None


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.source}: {claim.text}, {claim.number}")
def test_a_claim_reads_arms_of_the_specs(claim: Claim) -> None:
    beds = {name: _Bed() for name in ("addition", "sorting")}
    with pytest.raises(KeyError):
        claim.measure(cast("Beds", beds))
    for name, bed in beds.items():
        spec = load_spec(SPECS / f"{name}.yaml")
        assert bed.asked <= {spec.reference_label, *(str(c.label) for c in spec.candidates)}
    assert any(bed.asked for bed in beds.values())


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.03, "reproduced"),
        (-0.03, -0.01, "not reproduced"),
        (-0.01, 0.03, "cannot be seen here"),
        (0.0, inf, "reproduced"),
    ],
)
def test_the_whole_interval_judges(low: float, high: float, verdict: Found) -> None:
    claim = replace(CLAIMS[0], region=(0.0, inf))
    assert claim.judge(Range((low + high) / 2, low, high)) == verdict
    assert claim.judge(None) == "not measured"


def test_a_hard_addition_has_two_carries() -> None:
    assert _is_hard("95+17=")
    assert _is_hard("999+1=")
    assert not _is_hard("95+14=")
    assert not _is_hard("90+17=")
    with pytest.raises(ValueError, match="no addition"):
        _is_hard("3 1 2 =")


def test_the_oracle_trains_two_and_asks_the_others() -> None:
    oracle = Oracle(trained=2, asked=3)
    pool = Pool(np.array([7, 9, 4]), np.zeros(3, np.int64), np.random.default_rng(0))
    requests = oracle.select(pool, RolloutBudget(rollouts=11, rounds=1, step=0, total=11))
    assert requests.prompt_R.tolist() == [7, 9, 7, 9]
    assert requests.count_R.tolist() == [2, 2, 3, 3]
    assert requests.trainable_R.tolist() == [True, True, False, False]
    # Prompt 0: trained 1 and 0, the others 1, 1, 0. Prompt 1: one of the others was not verified.
    prompt_N = np.repeat([0, 1], 5)
    verdict_N = np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    correct_N = np.array([1.0, 0, 1, 1, 0, 1, 1, 0, 1, 0])
    batch = Batch(
        prompt_id_P=np.array([7, 9]), stratum_P=np.zeros(2, np.int64), prompt_N=prompt_N,
        round_N=np.zeros(10, np.int64), kind_N=np.zeros(10, np.int64),
        trainable_N=np.tile([True, True, False, False, False], 2), verdict_N=verdict_N,
        correct_N=correct_N, reward_N=correct_N, length_N=np.ones(10, np.int64),
        version_N=np.zeros(10, np.int64), dropped_P=np.zeros(2, bool),
    )  # fmt: skip
    scores = oracle.score(batch)
    assert scores.weight_N.tolist() == [1, 1, 0, 0, 0, 1, 1, 0, 0, 0]
    assert scores.advantage_N[[0, 1, 5, 6]] == pytest.approx([1 / 3, -2 / 3, 1 / 2, 1 / 2])
    assert not scores.advantage_N[[2, 3, 4, 7, 8, 9]].any()


def drawn(family: str, value: float, lr: float, k_min: int, k_max: int) -> optuna.trial.FrozenTrial:
    """A trial as a sweep of several strategies records it: k_max begins at k_min."""
    return optuna.trial.create_trial(
        params={
            "strategy": family,
            f"{family}.learner.lr": lr,
            f"{family}.k_min": k_min,
            f"{family}.k_max": k_max,
        },
        distributions={
            "strategy": optuna.distributions.CategoricalDistribution(("a", "b")),
            f"{family}.learner.lr": optuna.distributions.FloatDistribution(1e-4, 1e-3, log=True),
            f"{family}.k_min": optuna.distributions.CategoricalDistribution((2, 4)),
            f"{family}.k_max": optuna.distributions.IntDistribution(k_min, 16),
        },
        value=value,
    )


def test_importance_counts_what_strategies_share_and_ranges_that_follow_another_parameter() -> None:
    rng = np.random.default_rng(0)
    families: dict[str, list[optuna.trial.FrozenTrial]] = {"a": [], "b": []}
    for family, own in families.items():
        for _ in range(40):
            k_min = int(rng.choice([2, 4]))
            k_max, lr = int(rng.integers(k_min, 17)), float(rng.uniform(1e-4, 1e-3))
            own.append(drawn(family, k_max + 0.01 * float(rng.normal()), lr, k_min, k_max))
    within = _fanova(_within("a", families["a"]))
    assert set(within) == {"learner.lr", "k_min", "k_max"}
    assert within["k_max"] > 0.8, "the value is k_max"
    shared = _fanova(_across({"a": families["a"][:1], "b": families["b"][:1]}))
    assert set(shared) == {"strategy", "learner.lr", "k_min", "k_max"}
