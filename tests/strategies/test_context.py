"""The context prior: a rolling record, read before sampling, without a gradient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.strategies.engine import FakeEngine, Vectors, stats
from trainables.strategies.batch import Verdict
from trainables.strategies.config import parse_strategy
from trainables.strategies.priors.context import ContextPrior
from trainables.strategies.priors.record import Record
from trainables.strategies.scale import UNIT, Scale
from trainables.value_models.config import EncoderConfig
from trainables.value_models.heads.base import Context
from trainables.value_models.heads.gp import GaussianProcess
from trainables.value_models.heads.registry import Saved, save_head
from trainables.value_models.heads.scaling import Layout
from trimtab.errors import ModelError, StrategyError

COUNT = 400
RATE = 1 / (1 + np.exp(-2.5 * Vectors()(np.arange(COUNT))[:, 0]))
WORLD = {"rate_C": RATE, "stratum_C": np.zeros(COUNT, np.int64)}


def prior(**settings: object) -> Record:
    made = ContextPrior(**settings).begin(UNIT)
    made.provide(Vectors())
    return made


def learned(steps: int = 6, **settings: object) -> Record:
    made, world = prior(**settings), FakeEngine(**WORLD)
    group = parse_strategy({"preset": "rloo", "group_size": 4}).build()
    for step in range(steps):
        made.observe(world.step(group, step), stats(step))
    return made


def test_prompts_that_were_never_sampled_are_predicted() -> None:
    made = learned()
    new = np.arange(250, COUNT)
    found = made.predict_prompts(new, np.zeros(len(new), np.int64))
    assert found.mean_P is not None
    assert found.sd_P is not None
    error = found.mean_P - RATE[new]
    assert np.mean(error**2) < 0.1 * np.var(RATE)
    assert 0.2 < np.mean((error / found.sd_P) ** 2) < 2.0


def test_cold_start_is_the_pool_mean_with_the_doubt_of_a_uniform_rate() -> None:
    made = prior()
    batch = FakeEngine(**WORLD).step(parse_strategy({"preset": "rloo", "group_size": 4}).build())
    found = made.predict(batch)
    assert found.mean_P is not None
    assert found.sd_P is not None
    means = np.bincount(batch.prompt_N, batch.correct_N) / 4
    assert found.mean_P == pytest.approx((means.sum() - means) / (len(means) - 1))
    assert found.sd_P == pytest.approx(np.full(len(means), np.sqrt(1 / 12 * (1 + 1 / 31))))
    before = made.predict_prompts(np.arange(3), np.zeros(3, np.int64))
    assert before.mean_P == pytest.approx(np.full(3, 0.5))
    assert before.sd_P == pytest.approx(np.full(3, np.sqrt(2 / 12)))


def test_the_record_rolls_and_old_rows_count_less() -> None:
    made = learned(steps=6, size=100, keep=0.5)
    assert made.record_4N.shape == (4, 100)
    context = made._context()
    assert context.count_N[-1] == 4.0
    assert context.count_N[0] == pytest.approx(4.0 * 0.5**3)
    assert (np.diff(made.record_4N[3]) >= 0).all()


def test_age_does_not_pass_for_noise() -> None:
    """The spread of pass rates is estimated from the rollouts that there were."""
    made = learned(steps=9, keep=0.5)
    assert made.chosen is not None
    assert made.chosen["total"] == pytest.approx(np.var(RATE), rel=0.35)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_record_without_variation_is_read_with_doubt(rate: float) -> None:
    made, world = prior(), FakeEngine(np.full(COUNT, rate), np.zeros(COUNT, np.int64))
    for step in range(3):
        made.observe(world.step(parse_strategy("rloo").build(), step), stats(step))
    found = made.predict_prompts(np.arange(300, 320), np.zeros(20, np.int64))
    assert found.mean_P == pytest.approx(np.full(20, rate), abs=0.1)
    assert found.sd_P is not None
    assert (found.sd_P > 0.01).all()


def test_failed_verdicts_and_later_rounds_stay_out_of_the_record() -> None:
    made, world = prior(), FakeEngine(**WORLD)
    batch = world.step(parse_strategy({"preset": "rloo", "group_size": 4}).build())
    first = batch.prompt_N == 0
    failed = replace(batch, verdict_N=np.where(first, int(Verdict.TIMEOUT), batch.verdict_N))
    made.observe(failed, stats())
    assert int(batch.prompt_id_P[0]) not in made.record_4N[0]
    late = replace(batch, round_N=np.where(np.arange(batch.rollouts) % 4 == 3, 1, 0))
    other = prior()
    other.observe(late, stats())
    assert (other.record_4N[2] == 3).all()


def test_state_survives_between_choices_of_scales() -> None:
    made, twin, world = learned(steps=5, refit=4), prior(refit=4), FakeEngine(**WORLD, cursor=50)
    twin.load_state_dict(made.state_dict())
    group = parse_strategy("rloo").build()
    for step in range(5):
        batch = world.step(group, step)
        a, b = made.predict(batch), twin.predict(batch)
        assert np.array_equal(a.mean_P, b.mean_P)  # type: ignore[arg-type]
        made.observe(batch, stats(step))
        twin.observe(batch, stats(step))


def test_reward_ranges_are_scaled() -> None:
    made = learned()
    wide = ContextPrior().begin(Scale(-1.0, 1.0))
    wide.provide(Vectors())
    wide.load_state_dict(made.state_dict())
    ids, strata = np.arange(20), np.zeros(20, np.int64)
    assert wide.predict_prompts(ids, strata).mean_P == pytest.approx(
        2 * made.predict_prompts(ids, strata).mean_P - 1
    )
    assert wide.predict_prompts(ids, strata).sd_P == pytest.approx(2 * made.predict_prompts(ids, strata).sd_P)


def test_a_fitted_head_brings_its_encoder(tmp_path: Path) -> None:
    layout, encoder = Layout((6, 2), True), EncoderConfig(model="none", ngrams=6)
    head = GaussianProcess(layout, inducing=64)
    x = Vectors()(np.arange(COUNT))
    head.fit([Context(x, RATE.astype(np.float64), np.full(COUNT, 8.0), np.arange(COUNT))])
    save_head(tmp_path, Saved(head, layout, encoder))
    made = prior(head=str(tmp_path))
    assert made.needs().encoder == encoder
    found = made.predict_prompts(np.arange(COUNT), np.zeros(COUNT, np.int64)).mean_P
    # The policy's level is unknown before its first record, the differences between prompts are not.
    assert np.corrcoef(found, RATE)[0, 1] > 0.95
    with pytest.raises(ModelError, match="holds no fitted head"):
        prior(head=str(tmp_path / "absent"))


def test_it_says_what_it_was_not_given() -> None:
    made = ContextPrior().begin(UNIT)
    with pytest.raises(StrategyError, match="none were provided"):
        made.predict_prompts(np.arange(3), np.zeros(3, np.int64))


def test_v0_spends_by_prediction_and_foresees_no_more_than_it_may_take() -> None:
    strategy = parse_strategy({"preset": "v0", "group_size": 8, "method": "exact"}).build()
    asked: list[int] = []

    class Counting(Vectors):
        def __call__(self, prompt_P: np.ndarray) -> np.ndarray:
            asked.append(len(prompt_P))
            return super().__call__(prompt_P)

    strategy.provide(Counting())  # type: ignore[attr-defined]
    world = FakeEngine(**WORLD)
    for step in range(8):
        batch = world.step(strategy, step)
        strategy.observe(batch, stats(step))
    counts = np.bincount(batch.prompt_N)
    assert counts.sum() == 128
    assert counts.max() > counts.min()
    hard = RATE[batch.prompt_id_P] < np.median(RATE[batch.prompt_id_P])
    assert counts[hard].mean() > counts[~hard].mean()
    assert max(asked) <= 256
    notes = strategy.score(batch).diagnostics
    sums = np.bincount(batch.prompt_N, batch.correct_N)
    wrong = np.where(sums > 0, counts - sums, 0).sum()
    assert notes["utility_realised"] == pytest.approx(wrong / 128)
    assert notes["utility_predicted"] == pytest.approx(notes["utility_realised"], abs=0.15)
