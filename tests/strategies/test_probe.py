"""The probe prior: what it is fitted on, what it may see, and that its gradient is unbiased."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.probe_level import expected_rate, rejection_rate
from benchmarks.strategies import ACTIONS, TYPES, Bandit
from benchmarks.strategies_sim import play
from tests.strategies.engine import FakeEngine, states, stats
from trainables.strategies.batch import Batch, Features
from trainables.strategies.composed import Composed
from trainables.strategies.config import parse_strategy
from trainables.strategies.fusion.prior_only import PriorOnly
from trainables.strategies.priors.probe import ProbePrior
from trainables.strategies.priors.probing.buffer import Rows, rows_of
from trainables.strategies.priors.probing.regression import Order, Projection, Regression
from trainables.strategies.scale import UNIT, Scale
from trainables.strategies.suits import warnings
from trimtab.errors import DivergedError, SpecError

RATE = np.random.default_rng(0).beta(1.2, 2.2, 96)
STRATUM = (RATE * 4).astype(np.int64)


def world(**changes: Any) -> FakeEngine:
    return FakeEngine(RATE, STRATUM, **changes)


def probe_strategy(group_size: int = 2, fusion: Any = None, budget: Any = None, **prior: Any) -> Composed:
    built = parse_strategy(
        {
            "prior": {"type": "probe", **prior},
            "fusion": fusion or {"type": "prior_only", "leave_one_out": True},
            "budget": budget or {"type": "fixed", "group_size": group_size},
        }
    ).build()
    assert isinstance(built, Composed)
    return built


def trained(strategy: Composed, steps: int = 6, **changes: Any) -> tuple[Composed, Batch]:
    """The strategy after some steps, and the batch of the next one."""
    engine = world(**changes)
    for step in range(steps):
        strategy.observe(engine.step(strategy, step), stats(step))
    return strategy, engine.step(strategy, steps)


# ---- what it is fitted on ------------------------------------------------------------------------------


def test_two_rollouts_swap_their_rewards():
    batch = world().step(probe_strategy(2))
    rows = rows_of(batch, batch.features, UNIT, per_prompt=False)
    assert len(rows) == batch.rollouts
    for prompt in range(batch.prompts):
        i, j = np.flatnonzero(batch.prompt_N == prompt)
        mine = rows.take(rows.group_R == prompt)
        np.testing.assert_array_equal(mine.response_RF, batch.features.response_NF[[i, j]])
        np.testing.assert_array_equal(mine.rate_R, batch.correct_N[[j, i]])


def test_more_rollouts_get_the_mean_of_the_others_and_read_the_mean_of_the_others():
    strategy, batch = trained(probe_strategy(4))
    rows = rows_of(batch, batch.features, UNIT, per_prompt=False)
    read_N = strategy.prior.predict(batch).mean_N
    baseline_N = batch.reward_N - strategy.score(batch).advantage_N
    for prompt in range(batch.prompts):
        group = np.flatnonzero(batch.prompt_N == prompt)
        targets = rows.rate_R[rows.group_R == prompt]
        for place, i in enumerate(group):
            others = group[group != i]
            assert targets[place] == pytest.approx(batch.correct_N[others].mean())
            assert baseline_N[i] == pytest.approx(read_N[others].mean())


def test_a_failed_verification_is_no_evidence_and_dropped_prompts_are():
    strategy = probe_strategy(4)
    batch = world(failure_rate=0.3).step(strategy)
    batch = replace(batch, dropped_P=np.arange(batch.prompts) % 2 == 0)
    rows = rows_of(batch, batch.features, UNIT, per_prompt=False)
    good = batch.verdict_N == 0
    enough = np.bincount(batch.prompt_N[good], minlength=batch.prompts)[batch.prompt_N] >= 2
    assert len(rows) == int((good & enough).sum())


def test_later_rounds_are_no_evidence():
    budget = {"type": "sequential", "k_min": 2, "k_max": 6}
    strategy = probe_strategy(fusion={"type": "tested", "leave_one_out": True}, budget=budget)
    batch = world().step(strategy)
    assert batch.round_N.max() > 0
    assert len(rows_of(batch, batch.features, UNIT, per_prompt=False)) == int((batch.round_N == 0).sum())


@given(
    sizes=st.lists(st.lists(st.integers(1, 5), min_size=0, max_size=6), min_size=1, max_size=8),
    limit=st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_the_oldest_whole_groups_leave_first(sizes: list[list[int]], limit: int):
    def rows(groups: list[int], tag: int) -> Rows:
        n = sum(groups)
        return Rows(
            prompt_RF=np.full((n, 1), tag, np.float32),
            response_RF=np.zeros((n, 1), np.float32),
            entropy_R3=np.zeros((n, 3), np.float32),
            survey_RL2K=np.zeros((n, 0, 2, 0), np.float16),
            rate_R=np.zeros(n),
            group_R=np.repeat(np.arange(len(groups)), groups),
            stratum_R=np.zeros(n, np.int64),
        )

    buffer = rows([], 0)
    history: list[tuple[int, int]] = []
    for tag, groups in enumerate(sizes):
        buffer = buffer.push(rows(groups, tag), limit)
        history += [(tag, size) for size in groups]
    kept = history[len(history) - len(np.unique(buffer.group_R)) :]
    assert buffer.prompt_RF[:, 0].tolist() == [tag for tag, size in kept for _ in range(size)]
    assert len(buffer) <= limit or len(kept) == 1
    one_more = len(kept) < len(history) and len(buffer) + history[-len(kept) - 1][1] <= limit
    assert not one_more, "a group that fits was evicted"


# ---- what it learns ------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["released", "standardised"])
@pytest.mark.parametrize("pca", [(32, 64), (5, 8), (0, 0)])
def test_both_orders_are_those_of_a_pipeline_of_scikit_learn(order: Order, pca: tuple[int, int]):
    from sklearn.compose import ColumnTransformer
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def part(components: int) -> Any:
        if not components:
            return StandardScaler()
        steps = [PCA(components), StandardScaler()]
        return make_pipeline(*(steps if order == "released" else reversed(steps)))

    parts, rate_R = raw_states(1000)
    new, _ = raw_states(200, seed=1)
    widths = np.cumsum([0, *(own.shape[1] for own in parts)])
    columns = [(str(k), part(c), slice(*widths[k : k + 2])) for k, c in enumerate((*pca, 0))]
    pipeline = make_pipeline(ColumnTransformer(columns), Ridge(alpha=100.0))
    pipeline.fit(np.concatenate(parts, axis=1, dtype=np.float64), rate_R)
    projection = Projection.fit(parts, [*pca, 0], order)
    fitted = Regression.fit(projection.apply(parts), rate_R, "ridge", 100.0)
    expected = np.clip(pipeline.predict(np.concatenate(new, axis=1, dtype=np.float64)), 0, 1)
    assert ((expected > 0) & (expected < 1)).mean() > 0.8
    np.testing.assert_allclose(fitted.predict(projection.apply(new)), expected, atol=1e-6)


def raw_states(rows: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Parts (prompt, reasoning, entropies) with unequal spreads and means far from 0, and pass rates (R,)."""
    rng, shape = np.random.default_rng(seed), np.random.default_rng(99)
    known_R8 = rng.normal(size=(rows, 8))
    parts = []
    for width in (40, 80, 3):
        mean_F, spread_F = shape.normal(0, 2, width), np.exp(shape.normal(0, 1, width))
        mixed = known_R8 @ shape.normal(size=(8, width)) / 3 + rng.normal(size=(rows, width))
        parts.append((mean_F + spread_F * mixed).astype(np.float32))
    return parts, np.clip(0.5 + 0.1 * known_R8[:, :4].sum(axis=1) + rng.normal(0, 0.1, rows), 0, 1)


def test_the_preset_and_the_prior_take_the_released_order_and_it_matters():
    assert parse_strategy("poise").prior.order == ProbePrior().order == "released"
    pca = {"pca_prompt": 5, "pca_response": 5}
    scaled, batch = trained(probe_strategy(4, order="standardised", **pca))
    released, _ = trained(probe_strategy(4, **pca))
    apart = released.prior.predict(batch).mean_N - scaled.prior.predict(batch).mean_N
    assert np.abs(apart).max() > 0.01


def test_directions_that_few_prompts_do_not_span_are_not_blown_up():
    """20 rows of 3 prompts: their states span 2 directions, and the rest of 16 components is rounding."""
    rng = np.random.default_rng(0)
    seen_R40 = np.repeat(rng.normal(3, 1, (3, 40)), 20, axis=0) * (1 + rng.normal(0, 1e-7, (60, 1)))
    projection = Projection.fit([seen_R40.astype(np.float32)], [16], "released")
    scores = projection.apply([rng.normal(3, 1, (50, 40)).astype(np.float32)])
    assert np.abs(scores).max() < 20
    same = np.ones((20, 40), np.float32)
    assert (Projection.fit([same], [16], "released").apply([same]) == 0).all()


@pytest.mark.parametrize("model", ["ridge", "logistic", "mlp"])
@pytest.mark.parametrize("pca", [0, 5])
@pytest.mark.parametrize("reach", [(0.0, 1.0), (-1.0, 1.0)])
def test_every_model_learns_and_stays_in_range(model: str, pca: int, reach: tuple[float, float]):
    scale = Scale(*reach)
    config = ProbePrior(model=model, pca_prompt=pca, pca_response=pca, penalty=1.0)  # type: ignore[arg-type]
    prior = config.begin(scale)
    engine, plain = world(total=256), probe_strategy(4)
    for step in range(5):
        batch = engine.step(plain, step)
        scaled = replace(batch, correct_N=scale.reward(batch.correct_N))
        prior.observe(scaled, stats(step))
    batch = engine.step(plain, 5)
    estimate_N = prior.predict(batch).mean_N
    assert estimate_N.min() >= scale.low
    assert estimate_N.max() <= scale.high
    rate_N = scale.reward(RATE[batch.prompt_id_P][batch.prompt_N])
    assert np.corrcoef(estimate_N, rate_N)[0, 1] > 0.6
    assert np.square(estimate_N - rate_N).mean() < 0.6 * rate_N.var()


def test_before_the_first_fit_it_estimates_its_start():
    strategy = probe_strategy(2, start=0.3)
    batch = world().step(strategy)
    assert set(strategy.prior.predict(batch).mean_N) == {0.3}


def test_a_stratum_with_enough_rows_has_a_probe_of_its_own():
    one, batch = trained(probe_strategy(4, penalty=1.0), steps=12)
    each, _ = trained(probe_strategy(4, penalty=1.0, per_stratum=True), steps=12)
    assert set(each.prior.projections) > {-1, 0, 1}
    rare = replace(batch, stratum_P=np.full(batch.prompts, 77))
    np.testing.assert_array_equal(each.prior.predict(rare).mean_N, one.prior.predict(batch).mean_N)
    assert not np.array_equal(each.prior.predict(batch).mean_N, one.prior.predict(batch).mean_N)


def test_incremental_keeps_the_projection_between_refreshes_and_says_nearly_the_same():
    strategy = probe_strategy(4, refit="incremental", refresh=4, pca_prompt=3, pca_response=3, penalty=1.0)
    engine, bases = world(), []
    for step in range(9):
        strategy.observe(engine.step(strategy, step), stats(step))
        bases.append(strategy.prior.projections[-1].parts[0].basis_FK.tobytes())
    kept = [a == b for a, b in pairwise(bases)]
    assert kept == [True] * 3 + [False] + [True] * 3 + [False]
    batch = engine.step(strategy, 9)
    fresh, _ = trained(probe_strategy(4, pca_prompt=3, pca_response=3, penalty=1.0), steps=9)
    apart = strategy.prior.predict(batch).mean_N - fresh.prior.predict(batch).mean_N
    assert np.abs(apart).max() < 0.1


@pytest.mark.parametrize(
    "prior",
    [
        {},
        {"refit": "incremental"},
        {"layer": "auto"},
        {"survey": True},
        {"order": "standardised"},
        {"model": "mlp"},
        {"model": "logistic", "per_stratum": True},
        {"states": "prompt"},
    ],
)
def test_a_checkpoint_restores_it_exactly(prior: dict[str, Any]):
    strategy, batch = trained(probe_strategy(4, **prior))
    state = strategy.state_dict()
    twin = probe_strategy(4, **prior)
    twin.load_state_dict(pickle.loads(pickle.dumps(state)))
    for each in (strategy, twin):
        each.observe(batch, stats())
    a, b = strategy.score(batch), twin.score(batch)
    np.testing.assert_array_equal(a.advantage_N, b.advantage_N)
    assert dict(a.diagnostics) == dict(b.diagnostics)
    json.dumps(state, default=lambda array: array.tolist())


# ---- layers --------------------------------------------------------------------------------------------


def test_the_survey_scores_every_block_out_of_sample():
    strategy, batch = trained(probe_strategy(4, survey=True, penalty=1.0), steps=12)
    notes = strategy.score(batch).diagnostics
    assert {f"layer_mae/{block:02d}" for block in range(3)} <= set(notes)
    # The last block carries the least noise in this world.
    assert notes["layer_pearson/02"] > notes["layer_pearson/00"]
    assert notes["probe_layer"] == 1


def test_auto_chooses_the_best_trailing_block_from_data_before_the_step():
    strategy, engine = probe_strategy(4, layer="auto", penalty=1.0), world(total=256)
    chosen = []
    for step in range(12):
        batch = engine.step(strategy, step)
        before = strategy.score(batch).diagnostics["probe_layer"]
        flipped = replace(batch, correct_N=1.0 - batch.correct_N, reward_N=1.0 - batch.reward_N)
        assert strategy.score(flipped).diagnostics["probe_layer"] == before
        strategy.observe(batch, stats(step))
        chosen.append(before)
    assert chosen[0] == 1
    assert chosen[-1] == 2


# ---- what it may see -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["prior_only", "tested", "beta"])
def test_reading_the_scored_rollouts_own_states_is_refused_with_the_reason(fusion: str):
    with pytest.raises(
        SpecError, match=r"fusion\.leave_one_out: false.*own tokens.*gradient would be biased"
    ):
        probe_strategy(4, fusion={"type": fusion})
    assert probe_strategy(4, fusion={"type": fusion}, states="prompt")
    assert probe_strategy(4, fusion={"type": fusion, "leave_one_out": True})


def test_a_group_of_one_has_no_other_states():
    with pytest.raises(SpecError, match="one rollout"):
        probe_strategy(1, fusion={"type": "tested", "leave_one_out": True})


@pytest.mark.parametrize("fusion", ["prior_only", "tested", "beta", "group_mean", "leave_one_out"])
@pytest.mark.parametrize("budget", ["fixed", "sequential", "dynamic", "two_phase"])
def test_it_combines_with_fusions_and_budgets(fusion: str, budget: str):
    written: dict[str, Any] = {"type": fusion}
    if fusion in ("prior_only", "tested", "beta"):
        written["leave_one_out"] = True
    strategy, batch = trained(probe_strategy(fusion=written, budget={"type": budget}))
    scores = strategy.score(batch)
    assert np.isfinite(scores.advantage_N).all()
    assert scores.weight_N.any()
    assert strategy.needs().at_decide == (budget == "sequential")


def test_prompt_states_are_one_estimate_per_prompt():
    strategy, batch = trained(probe_strategy(1, fusion="prior_only", states="prompt", penalty=1.0), steps=10)
    estimate = strategy.prior.predict(batch)
    assert estimate.mean_N is None
    assert np.corrcoef(estimate.mean_P, RATE[batch.prompt_id_P])[0, 1] > 0.6


# ---- states that are not finite -------------------------------------------------------------------------


def broken(batch: Batch, rows: list[int]) -> Batch:
    response = batch.features.response_NF.copy()
    response[rows, 0] = np.nan
    return replace(batch, features=replace(batch.features, response_NF=response))


def test_a_rollout_with_nan_states_is_counted_and_left_out():
    strategy, batch = trained(probe_strategy(4))
    bad = broken(batch, [0])
    scores = strategy.score(bad)
    assert scores.weight_N[0] == 0
    assert scores.weight_N[1:].all(), "the others of the group still have each other"
    assert np.isfinite(scores.advantage_N).all()
    assert scores.diagnostics["bad_features"] == pytest.approx(1 / batch.rollouts)
    before = len(strategy.prior.rows)
    strategy.observe(bad, stats())
    assert len(strategy.prior.rows) == before + batch.rollouts - 1
    assert np.isfinite(strategy.score(batch).advantage_N).all()


def test_many_nan_states_end_the_trial():
    strategy, batch = trained(probe_strategy(4))
    with pytest.raises(DivergedError, match=r"20 of 128 rollouts.*max_bad_features=0\.05"):
        strategy.score(broken(batch, list(range(20))))


# ---- unbiasedness --------------------------------------------------------------------------------------


def bandit_states(
    bandit: Bandit, type_N: np.ndarray, action_N: np.ndarray, rng: np.random.Generator
) -> Features:
    """States that give the prompt's type away, and in the response which answer was chosen."""
    prompt = np.eye(TYPES)[type_N] + rng.normal(0, 0.1, (len(type_N), TYPES))
    response = np.concatenate([prompt, np.eye(ACTIONS)[action_N]], axis=1)
    entropy = np.zeros((len(type_N), 3), np.float32)
    return Features(0, prompt.astype(np.float32), response.astype(np.float32), entropy)


def gradient_scale(leave_one_out: bool, samples: int = 400_000, total: int = 4000) -> tuple[float, float]:
    """Mean of advantage x score function along the true gradient (1 = unbiased), and its standard error."""
    bandit, rng = Bandit.make(), np.random.default_rng(0)
    strategy = probe_strategy(2, pca_prompt=0, pca_response=0, penalty=1.0)
    if not leave_one_out:
        strategy = replace(strategy, fusion=PriorOnly(leave_one_out=False))
    scales = []
    for turn in range(samples // total):
        type_C = rng.integers(0, TYPES, total)
        batch, action_N = play(strategy, bandit.draw(type_C), total, total, rng)
        type_N = type_C[batch.prompt_id_P][batch.prompt_N]
        batch = replace(batch, features=bandit_states(bandit, type_N, action_N, rng))
        if turn > 0:
            advantage_N = strategy.score(batch).advantage_N
            score_NA = np.eye(ACTIONS)[action_N] - bandit.policy_TA[type_N]
            along_N = advantage_N * (score_NA * bandit.gradient_TA[type_N]).sum(axis=1)
            scales.append(along_N.mean() / np.square(bandit.gradient_TA[type_N]).sum(axis=1).mean())
        strategy.observe(batch, stats(turn))
    return float(np.mean(scales)), float(np.std(scales, ddof=1) / np.sqrt(len(scales)))


def test_cross_rollout_baselines_are_unbiased_and_same_rollout_ones_are_not():
    scale, error = gradient_scale(leave_one_out=True)
    assert error < 0.01
    assert abs(scale - 1.0) < 4 * error
    scale, error = gradient_scale(leave_one_out=False)
    assert scale < 1.0 - 10 * error, "states that know the answer explain the reward away"


# ---- the V0.5 test with a probe ------------------------------------------------------------------------


def test_states_of_the_group_itself_make_the_test_conservative():
    """The prior is read from the rollouts whose mean it is tested against, so both move together."""
    alpha = 0.31731050786
    assert rejection_rate(0.0, own=True) == pytest.approx(alpha, abs=0.02)
    for known in (0.25, 0.5):
        assert rejection_rate(known, own=True) == pytest.approx(expected_rate(known, own=True), abs=0.02)
        assert rejection_rate(known, own=True) < alpha - 0.05
        assert rejection_rate(known, own=False) == pytest.approx(expected_rate(known, own=False), abs=0.02)
        assert rejection_rate(known, own=False) > alpha


def test_the_pass_is_asked_for_once_per_round_under_a_sequential_budget():
    strategy = probe_strategy(
        fusion={"type": "tested", "leave_one_out": True},
        budget={"type": "sequential", "k_min": 2, "k_max": 8},
    )
    needs = strategy.needs()
    assert needs.at_decide
    assert needs.features is not None
    assert needs.features.survey is None


def test_states_helper_agrees_over_rounds():
    engine = world()
    strategy = probe_strategy(4)
    batch = engine.step(strategy)
    again = states(RATE[batch.prompt_id_P][batch.prompt_N], batch)
    np.testing.assert_array_equal(batch.features.prompt_NF, again.prompt_NF)


# ---- before anything starts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "field"),
    [
        ({"preset": "poise", "window": 0}, "window"),
        ({"preset": "poise", "depth": 0.0}, "depth"),
        ({"preset": "poise", "depth": 1.1}, "depth"),
        ({"preset": "poise", "layer": -1}, "layer"),
        ({"preset": "poise", "layer": "best"}, "layer"),
        ({"preset": "poise", "buffer": 0}, "buffer"),
        ({"preset": "poise", "penalty": 0}, "penalty"),
        ({"preset": "poise", "order": "standardized"}, "order: 'standardized' must be 'released' or 'stan"),
        ({"prior": {"type": "probe", "order": "pca"}}, "prior.order: 'pca' must be 'released' or 'stan"),
        ({"preset": "poise", "layer": "auto", "depth": 0.3}, "depth"),
    ],
)
def test_bad_settings_name_the_field(written: dict[str, Any], field: str):
    with pytest.raises(SpecError, match=field):
        parse_strategy(written)


def test_a_layer_beyond_the_depth_is_refused_when_a_trial_is_described(tmp_path):
    from trainables.trial import TrialConfig, TrialSettings

    def described(layer: int, model: str) -> TrialConfig:
        return TrialSettings(model=model).with_strategy({"preset": "poise", "layer": layer})

    with pytest.raises(ValueError, match=r"layer: 4 is beyond the model's depth: it has 4 decoder blocks"):
        described(4, "tiny")
    (tmp_path / "config.json").write_text(json.dumps({"n_layer": 12, "n_embd": 64}))
    with pytest.raises(ValueError, match="0 to 11"):
        described(12, str(tmp_path))
    assert described(11, str(tmp_path))
    assert described(30, "owner/unknown")


def test_more_features_than_rows_are_warned_of_unless_something_shrinks_them():
    def warned(**changes: Any) -> list[str]:
        whole = {"preset": "poise", "buffer": 64, "pca_prompt": 0, "pca_response": 0, **changes}
        return warnings(parse_strategy(whole), 128)

    assert "64 rows for 259 features" in warned(model="mlp")[0]
    assert "penalty 0.01" in warned(penalty=0.01)[0]
    assert (
        warned()
        == warned(model="mlp", pca_prompt=8, pca_response=8)
        == warned(model="mlp", buffer=4096)
        == []
    )
    assert warnings(parse_strategy("dapo"), 128) == []


def test_the_plan_shows_the_warning():
    from trimtab.planning.plan import make_plan
    from trimtab.sweepspec.load import parse_spec

    probe = {"preset": "poise", "buffer": 64, "model": "mlp", "pca_prompt": 0, "pca_response": 0}
    spec = parse_spec({"name": "x", "reference": {"strategy": "dapo"}, "candidates": [{"strategy": probe}]})
    (line,) = make_plan(spec, 2.0, 0, 16 * 10**9).warnings
    assert "259 features" in line
