"""All presets on one fake engine: closed-form advantages, purity, no leakage, ends under every budget."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest

from tests.strategies.engine import FakeEngine, provided, stats
from trainables.errors import StrategyError
from trainables.strategies.batch import Batch, Kind, RolloutBudget, Scores
from trainables.strategies.config import parse_strategy, preset_names
from trainables.strategies.groups import Groups
from trainables.strategies.normalisers import TokenStd
from trainables.strategies.priors.base import Prior
from trainables.strategies.protocol import Strategy
from trainables.strategies.value_estimate import ValueEstimate


@dataclass
class StubProbe(Prior):
    """Reads the response's length: something of the trajectory that is no reward."""

    def predict(self, batch: Batch) -> ValueEstimate:
        return ValueEstimate(mean_N=batch.length_N / 10.0)


@dataclass
class StubCritic(Prior):
    def predict(self, batch: Batch) -> ValueEstimate:
        return ValueEstimate(tokens=tuple(np.linspace(0.2, 0.8, int(t)) for t in batch.length_N))


@dataclass
class StubPromptCritic(Prior):
    def predict(self, batch: Batch) -> ValueEstimate:
        return ValueEstimate(mean_P=(batch.prompt_id_P % 10) / 10.0)


STUBS = {"ppo": StubCritic, "sppo": StubPromptCritic, "tether": StubCritic, "evpo": StubCritic}
RATE = np.random.default_rng(0).beta(1.2, 2.2, 96)
STRATUM = (RATE * 4).astype(np.int64)
NAMES = preset_names()


def make(name: str, **settings: object) -> Strategy:
    stub = STUBS[name]() if name in STUBS else None
    written = {"preset": name, **settings}
    if name == "poise":
        written.setdefault("warmup_updates", 0)
    return provided(parse_strategy(written).build(prior=stub))


def engine(**settings: object) -> FakeEngine:
    return FakeEngine(RATE, STRATUM, **settings)  # type: ignore[arg-type]


def played(name: str, steps: int = 4, **settings: object) -> tuple[Strategy, Batch]:
    """The strategy after some steps, and the batch of the next one."""
    strategy, world = make(name), engine(**settings)
    for step in range(steps):
        batch = world.step(strategy, step)
        strategy.observe(batch, stats(step))
    return strategy, world.step(strategy, steps)


def same(a: Scores, b: Scores) -> bool:
    return (
        np.array_equal(a.advantage_N, b.advantage_N)
        and np.array_equal(a.weight_N, b.weight_N)
        and dict(a.diagnostics) == dict(b.diagnostics)
    )


@pytest.mark.parametrize("name", NAMES)
def test_score_is_pure_and_state_survives_a_checkpoint_and_a_pickle(name: str) -> None:
    strategy, batch = played(name, failure_rate=0.05, shaping=0.1)
    before = pickle.dumps(strategy.state_dict())
    first = strategy.score(batch)
    assert same(first, strategy.score(batch))
    strategy.decide(batch, RolloutBudget(rollouts=64, rounds=3, step=4, total=128))
    assert pickle.dumps(strategy.state_dict()) == before
    fresh = make(name)
    fresh.load_state_dict(strategy.state_dict())
    assert same(first, fresh.score(batch))
    assert same(first, pickle.loads(pickle.dumps(strategy)).score(batch))
    fresh.observe(batch, stats())
    assert pickle.dumps(strategy.state_dict()) == before, "a restored strategy shares arrays with the old one"


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_run(name: str) -> None:
    runs = [played(name, failure_rate=0.05) for _ in range(2)]
    assert np.array_equal(runs[0][1].prompt_id_P, runs[1][1].prompt_id_P)
    assert same(runs[0][0].score(runs[0][1]), runs[1][0].score(runs[1][1]))


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_finite_and_untrained_rollouts_weigh_nothing(name: str) -> None:
    strategy, batch = played(name, failure_rate=0.2, shaping=0.3)
    scores = strategy.score(batch)
    assert np.isfinite(scores.advantage_N).all()
    assert not scores.weight_N[~batch.valid_N].any()
    assert (scores.weight_N >= 0).all()
    assert all(np.isfinite(v) for v in scores.diagnostics.values())
    assert {"baseline_mean", "rollouts_per_prompt", "uniform_groups", "shortfall"} <= set(scores.diagnostics)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("jspo", "remax", "basis")])
def test_this_steps_rewards_never_enter_this_steps_prior(name: str) -> None:
    strategy, batch = played(name)
    flipped = replace(batch, correct_N=1.0 - batch.correct_N, reward_N=1.0 - batch.reward_N)
    prior = strategy.prior  # type: ignore[attr-defined]
    a, b = prior.predict(batch), prior.predict(flipped)
    if a is None:
        assert b is None
        return
    for field in ("mean_P", "mean_N"):
        x, y = getattr(a, field), getattr(b, field)
        assert (x is None and y is None) or np.array_equal(x, y)


@pytest.mark.parametrize("name", ["jspo", "basis"])
def test_a_prior_that_reads_the_batch_leaves_the_prompts_own_group_out(name: str) -> None:
    strategy, batch = played(name)
    mine = batch.prompt_N == 0
    changed = replace(batch, correct_N=np.where(mine, 1.0 - batch.correct_N, batch.correct_N))
    prior = strategy.prior  # type: ignore[attr-defined]
    assert prior.predict(batch).mean_P[0] == pytest.approx(prior.predict(changed).mean_P[0], abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("rollouts", "rounds"), [(0, 0), (0, 5), (128, 0), (1, 1), (3, 2), (17, 1), (128, 1), (128, 100)]
)
def test_every_strategy_ends_under_every_budget(name: str, rollouts: int, rounds: int) -> None:
    strategy, batch = played(name, steps=1)
    rollout_budget = RolloutBudget(rollouts=rollouts, rounds=rounds, step=1, total=max(rollouts, 128))
    requests = strategy.select(engine().pool(np.random.default_rng(0)), rollout_budget)
    assert requests.rollouts <= rollouts
    decision = strategy.decide(batch, rollout_budget)
    if rollouts == 0 or rounds == 0:
        assert decision.done
    asked = decision.more.rollouts if decision.more is not None else 0
    assert asked <= rollouts
    if decision.new_prompts:
        fresh = strategy.select(engine().pool(np.random.default_rng(0)), rollout_budget, decision.new_prompts)
        assert asked + fresh.rollouts <= rollouts


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("total", [16, 31, 128])
def test_a_step_never_spends_more_than_its_total(name: str, total: int) -> None:
    for rate in (np.zeros(96), np.ones(96), RATE):
        strategy = make(name)
        world = FakeEngine(rate, STRATUM, total=total, rounds=100)
        batch = world.step(strategy)
        assert world.drawn <= total
        assert len(world.decisions) <= 40
        strategy.score(batch)


def test_rollouts_per_step_is_the_compute_knob() -> None:
    for size in (2, 4, 8, 16):
        world = engine()
        batch = world.step(make("grpo", group_size=size))
        assert world.drawn == 128
        assert batch.prompts == 128 // size


# ---- closed forms -------------------------------------------------------------------------------------


def by_prompt(batch: Batch) -> list[np.ndarray]:
    return [np.flatnonzero((batch.prompt_N == p) & batch.valid_N) for p in range(batch.prompts)]


def test_grpo_and_dapo_divide_by_the_sample_std() -> None:
    for name in ("grpo", "dapo"):
        strategy, batch = played(name, shaping=0.2)
        scores = strategy.score(batch)
        for rows in by_prompt(batch):
            r = batch.reward_N[rows]
            want = (r - r.mean()) / (r.std(ddof=1) + 1e-6) if len(r) > 1 and r.std() > 0 else 0.0
            np.testing.assert_allclose(scores.advantage_N[rows], want, atol=1e-9)


def test_dapo_drops_groups_that_are_equally_correct_whatever_their_shaping_says() -> None:
    world = FakeEngine(np.where(np.arange(96) % 2, 1.0, 0.5), STRATUM, shaping=0.5)
    batch = world.step(make("dapo"))
    for p in range(batch.prompts):
        correct = batch.correct_N[batch.prompt_N == p]
        assert batch.dropped_P[p] == (correct.min() == correct.max())
    kept = int((~batch.dropped_P).sum())
    assert kept == 4, "refilled to as many groups as the first round had (half of 128 at 16)"
    assert world.drawn > 64


def test_rloo_and_dr_grpo() -> None:
    strategy, batch = played("rloo")
    scores = strategy.score(batch)
    plain = make("dr_grpo").score(batch)
    for rows in by_prompt(batch):
        r = batch.reward_N[rows]
        np.testing.assert_allclose(scores.advantage_N[rows], r - (r.sum() - r) / (len(r) - 1), atol=1e-12)
        np.testing.assert_allclose(plain.advantage_N[rows], r - r.mean(), atol=1e-12)


def test_reinforce_pp_is_whitened_over_the_batchs_tokens() -> None:
    strategy, batch = played("reinforce_pp")
    scores = strategy.score(batch)
    of_tokens = np.repeat(scores.advantage_N, np.where(scores.weight_N != 0, batch.length_N, 0))
    assert of_tokens.mean() == pytest.approx(0.0, abs=1e-12)
    assert of_tokens.std(ddof=1) == pytest.approx(1.0, abs=1e-4)


def test_whitening_over_tokens_counts_a_long_response_more() -> None:
    """Two groups of rewards 1 and 0, lengths 10 and 1: over rollouts it would be +-.866."""
    advantage_N, scored_N = np.array([0.5, -0.5, 0.5, -0.5]), np.ones(4, np.bool_)
    groups = Groups(np.array([0, 0, 1, 1]), advantage_N + 0.5, 2, length_N=np.array([10, 1, 10, 1]))
    found_N = TokenStd().rollouts(advantage_N, groups, scored_N)
    np.testing.assert_allclose(found_N, [0.309, -3.090, 0.309, -3.090], atol=5e-4)
    with pytest.raises(StrategyError, match="response lengths"):
        TokenStd().rollouts(advantage_N, replace(groups, length_N=None), scored_N)


def test_remax_subtracts_the_paid_but_untrained_greedy_reward() -> None:
    strategy, batch = played("remax")
    scores = strategy.score(batch)
    greedy = batch.kind_N == Kind.GREEDY
    assert greedy.sum() * 2 == batch.rollouts == 128
    assert not scores.weight_N[greedy].any()
    of_prompt = dict(zip(batch.prompt_N[greedy].tolist(), batch.correct_N[greedy].tolist(), strict=True))
    for i in np.flatnonzero(~greedy):
        assert scores.advantage_N[i] == batch.reward_N[i] - of_prompt[int(batch.prompt_N[i])]


def test_v05_is_the_published_rule() -> None:
    strategy, batch = played("v05")
    scores = strategy.score(batch)
    prior_P = strategy.prior.predict(batch).mean_P  # type: ignore[attr-defined]
    for p, rows in enumerate(by_prompt(batch)):
        r, v = batch.correct_N[rows], prior_P[p]
        d = r.mean() - v
        w = max(0.0, 1.0 - 0.25 / (len(r) * d * d)) if d else 0.0
        np.testing.assert_allclose(scores.advantage_N[rows], r - (v + w * d), atol=1e-12)


def test_v05_keeps_uniform_groups_and_the_prior_gives_them_signal() -> None:
    strategy, batch = played("v05")
    scores = strategy.score(batch)
    uniform = [rows for rows in by_prompt(batch) if np.ptp(batch.correct_N[rows]) == 0]
    assert uniform
    assert any(np.abs(scores.advantage_N[rows]).max() > 0.05 for rows in uniform)
    assert all(scores.weight_N[rows].all() for rows in uniform)


def test_v0_gives_more_rollouts_where_the_utility_says_so() -> None:
    _, batch = played("v0")
    assert batch.rollouts == 128
    assert batch.prompts == 8
    assert np.bincount(batch.prompt_N).min() >= 2


def test_poise_reads_the_other_rollouts_states_only() -> None:
    strategy = parse_strategy({"preset": "poise", "warmup_updates": 0}).build(prior=StubProbe())
    batch = engine().step(strategy)
    scores = strategy.score(batch)
    z = batch.length_N / 10.0
    for rows in by_prompt(batch):
        i, j = rows
        assert scores.advantage_N[i] == pytest.approx(batch.reward_N[i] - z[j])
        assert scores.advantage_N[j] == pytest.approx(batch.reward_N[j] - z[i])


def test_poise_warms_up_with_leave_one_out() -> None:
    strategy = parse_strategy({"preset": "poise", "warmup_updates": 2}).build(prior=StubProbe())
    world, seen = engine(), []
    for step in range(3):
        batch = world.step(strategy, step)
        seen.append(same(strategy.score(batch), make("rloo", group_size=2).score(batch)))
        restored = copy.deepcopy(strategy)
        restored.load_state_dict(strategy.state_dict())
        assert same(restored.score(batch), strategy.score(batch))
        strategy.observe(batch, stats(step))
    assert seen == [True, True, False]


def test_ppo_gae_with_lambda_one_is_return_minus_value_and_targets_are_returns() -> None:
    critic = parse_strategy({"preset": "ppo", "normaliser": "none"}).build(prior=StubCritic())
    batch = engine().step(critic)
    scores = critic.score(batch)
    assert scores.advantage_tokens is not None
    assert scores.value_targets is not None
    for n in range(batch.rollouts):
        v = np.linspace(0.2, 0.8, int(batch.length_N[n]))
        np.testing.assert_allclose(scores.advantage_tokens[n], batch.reward_N[n] - v, atol=1e-12)
        np.testing.assert_allclose(scores.value_targets[n], batch.reward_N[n], atol=1e-12)


def test_ppo_gae_recursion_and_whitening() -> None:
    lam = 0.9
    critic = parse_strategy({"preset": "ppo", "lam": lam, "normaliser": "none"}).build(prior=StubCritic())
    batch = engine().step(critic)
    scores = critic.score(batch)
    assert scores.advantage_tokens is not None
    for n in range(batch.rollouts):
        v = np.append(np.linspace(0.2, 0.8, int(batch.length_N[n])), 0.0)
        delta = np.diff(v)
        delta[-1] += batch.reward_N[n]
        want = [sum(lam ** (u - t) * delta[u] for u in range(t, len(delta))) for t in range(len(delta))]
        np.testing.assert_allclose(scores.advantage_tokens[n], want, atol=1e-12)
    whitened = make("ppo").score(batch).advantage_tokens
    assert whitened is not None
    flat = np.concatenate(whitened)
    assert flat.mean() == pytest.approx(0.0, abs=1e-9)
    assert flat.std(ddof=1) == pytest.approx(1.0, abs=1e-4)


def test_spo_tracks_each_prompt_with_forgetting() -> None:
    strategy = make("spo", normaliser="none")
    world = FakeEngine(RATE[:8], STRATUM[:8], total=8)
    a = b = None
    for step in range(6):
        batch = world.step(strategy, step)
        row = int(np.flatnonzero(batch.prompt_id_P[batch.prompt_N] == 3)[0])
        r = batch.correct_N[row]
        if a is not None:
            assert strategy.score(batch).advantage_N[row] == pytest.approx(r - a / (a + b))
        if a is None:
            a = 8 * (r + 0.5) / 2
            b = 8 - a
        else:
            rho = np.clip(2 ** (-0.01 / 0.06), 0.875, 0.96)
            a, b = rho * a + r, rho * b + 1 - r
        strategy.observe(batch, stats(step, logprob_change=0.01))


def test_spo_bootstrap_is_paid_and_not_trained() -> None:
    strategy = make("spo", bootstrap=8)
    batch = engine().step(strategy)
    assert batch.rollouts == 128
    assert batch.prompts == 16
    assert not strategy.score(batch).weight_N.any()


def test_jspo_closed_form() -> None:
    strategy, batch = played("jspo")
    scores = strategy.score(batch)
    groups = [batch.correct_N[rows] for rows in by_prompt(batch)]
    mean = np.array([g.mean() for g in groups])
    n = len(groups)
    for i, rows in enumerate(by_prompt(batch)):
        rest = [k for k in range(n) if k != i]
        v = np.mean([groups[k].var(ddof=1) / len(groups[k]) for k in rest])
        s = mean[rest].var()  # by their number n - 1
        lam = (n - 1) / n * v / (v + s)
        g = groups[i]
        own = (g.sum() - g) / (len(g) - 1)
        np.testing.assert_allclose(
            scores.advantage_N[rows], g - ((1 - lam) * own + lam * mean[rest].mean()), atol=1e-9
        )


def test_ebpo_and_beta_counts_closed_form() -> None:
    strategy, batch = played("ebpo")
    estimate = strategy.prior.predict(batch)  # type: ignore[attr-defined]
    baseline = strategy.fusion.fuse  # type: ignore[attr-defined]
    from trainables.strategies.groups import Groups

    fused = baseline(Groups.of(batch, strategy.scale), estimate)  # type: ignore[attr-defined]
    for p, rows in enumerate(by_prompt(batch)):
        m, tau2, sigma2 = batch.correct_N[rows].mean(), estimate.sd_P[p] ** 2, estimate.within_P[p]
        shrink = (sigma2 / len(rows)) / (sigma2 / len(rows) + tau2)
        np.testing.assert_allclose(fused.mean_N[rows], (1 - shrink) * m + shrink * estimate.mean_P[p])
    strategy, batch = played("beta_mix")
    prior_P = strategy.prior.predict(batch).mean_P  # type: ignore[attr-defined]
    scores = strategy.score(batch)
    for p, rows in enumerate(by_prompt(batch)):
        r = batch.correct_N[rows]
        np.testing.assert_allclose(
            scores.advantage_N[rows], r - (4 * prior_P[p] + r.sum()) / (4 + len(r)), atol=1e-12
        )


def test_global_mean_is_the_discounted_mean_of_all_earlier_rewards() -> None:
    strategy, world = make("global_mean"), engine()
    sums = np.zeros(2)  # rollouts and their rewards
    for step in range(4):
        batch = world.step(strategy, step)
        assert len(set(batch.prompt_N.tolist())) == batch.rollouts, "one rollout per prompt"
        pool = (sums[1] + 2.0 * 0.5) / (sums[0] + 2.0)  # two pseudo-rollouts at the start value
        mean = (sums[1] + 2.0 * pool) / (sums[0] + 2.0)  # and the one stratum leans on the mean of all
        np.testing.assert_allclose(strategy.score(batch).advantage_N, batch.correct_N - mean, atol=1e-12)
        strategy.observe(batch, stats(step))
        sums = 0.9 * sums + [batch.rollouts, batch.correct_N.sum()]


def test_length_weighted_closed_form() -> None:
    config = parse_strategy({"fusion": "length_weighted", "budget": {"type": "fixed", "group_size": 4}})
    strategy = config.build()
    batch = engine().step(strategy)
    scores = strategy.score(batch)
    for rows in by_prompt(batch):
        r, length = batch.correct_N[rows], batch.length_N[rows]
        np.testing.assert_allclose(
            scores.advantage_N[rows], r - (r * length).sum() / length.sum(), atol=1e-12
        )


def test_strata_are_estimated_at_the_mean_of_all_until_they_are_seen() -> None:
    strategy = make("v05", prior="strata")
    batch = engine().step(strategy)
    prior = strategy.prior  # type: ignore[attr-defined]
    assert np.all(prior.predict(batch).mean_P == 0.5), "cold start"
    strategy.observe(batch, stats())
    unseen = prior.predict_prompts(np.array([0]), np.array([99])).mean_P[0]
    assert unseen == pytest.approx((batch.correct_N[batch.round_N == 0].sum() + 1.0) / (96 + 2.0))
    easy, hard = prior.predict_prompts(np.zeros(2, np.int64), np.array([batch.stratum_P.max(), 0])).mean_P
    assert easy > unseen > hard


def test_shaping_has_its_own_baseline() -> None:
    strategy, batch = played("v05_loo", shaping=0.3)
    bare = replace(batch, reward_N=batch.correct_N)
    extra = strategy.score(batch).advantage_N - strategy.score(bare).advantage_N
    shaping = batch.reward_N - batch.correct_N
    assert shaping.any()
    for rows in by_prompt(batch):
        s = shaping[rows]
        np.testing.assert_allclose(extra[rows], s - (s.sum() - s) / (len(s) - 1), atol=1e-12)


def test_weighting_by_prompt_gives_every_prompt_the_same_mass() -> None:
    strategy = make("v05", weighting="prompt")
    batch = engine().step(strategy)
    weight = strategy.score(batch).weight_N
    mass = np.bincount(batch.prompt_N, weight)
    np.testing.assert_allclose(mass, mass[0])
    assert weight.sum() == pytest.approx(batch.rollouts)
    assert strategy.score(batch).equal_prompts
    assert not make("v05").score(batch).equal_prompts


def test_an_unverified_group_weighs_nothing_instead_of_failing() -> None:
    strategy, batch = played("grpo")
    verdict = np.where(batch.prompt_N == 0, 1, batch.verdict_N)
    verdict[np.flatnonzero(batch.prompt_N == 0)[0]] = 0
    cleared = np.where(verdict == 0, batch.correct_N, 0.0)
    scores = strategy.score(replace(batch, verdict_N=verdict, correct_N=cleared, reward_N=cleared))
    assert not scores.weight_N[batch.prompt_N == 0].any()
    assert scores.weight_N[batch.prompt_N != 0].all()
