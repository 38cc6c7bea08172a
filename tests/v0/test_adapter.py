"""The residual query adapter and its in-context transformer: what it may see, its loss, that it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.strategies.engine import FakeEngine, Vectors, stats
from trainables.strategies.config import parse_strategy
from trainables.value_models.config import EncoderConfig
from trainables.value_models.heads.base import Context
from trainables.value_models.heads.incontext import QueryAdapterHead
from trainables.value_models.heads.registry import Saved, load_head, make_head, save_head
from trainables.value_models.heads.scaling import Layout
from trainables.value_models.metrics import auc
from trimtab.errors import ModelError, RecordError

LAYOUT = Layout((40,), False)


def policy(seed: int, sign: float, rows: int = 200) -> tuple[Context, np.ndarray]:
    """A policy to which the first column is either good or bad: only its record says which."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 40)).astype(np.float32)
    x[:, 1:] *= 0.1
    truth = 1 / (1 + np.exp(-4.0 * sign * x[:, 0]))
    rate = rng.binomial(8, truth) / 8
    return Context(x, rate, np.full(rows, 8.0), np.arange(rows)), truth


def fitted(steps: int) -> QueryAdapterHead:
    head = make_head("adapter", LAYOUT, steps=steps)
    assert isinstance(head, QueryAdapterHead)
    head.fit([policy(seed, 1.0 if seed % 2 else -1.0)[0] for seed in range(6)])
    return head


@pytest.fixture(scope="module")
def brief() -> QueryAdapterHead:
    return fitted(3)


def test_queries_see_the_context_and_not_each_other(brief: QueryAdapterHead) -> None:
    record, _ = policy(20, 1.0, 40)
    context, asked = record.take(slice(0, 30)), record.features_NF[30:]
    together = brief.predict(context, asked).mean_Q
    alone = [brief.predict(context, row[None]).mean_Q[0] for row in asked]
    assert together == pytest.approx(alone, abs=1e-5)
    order = np.random.default_rng(0).permutation(30)
    assert brief.predict(context.take(order), asked).mean_Q == pytest.approx(together, abs=1e-5)
    better = Context(
        context.features_NF, np.minimum(context.rate_N + 0.3, 1.0), context.count_N, np.arange(30)
    )
    assert (brief.predict(better, asked).mean_Q > together).all()
    assert brief.predict(Context.empty(40), asked).mean_Q == pytest.approx(np.full(10, 0.5))


def test_the_global_random_state_is_left_alone() -> None:
    import torch

    before = torch.random.get_rng_state()
    first, again = fitted(2), fitted(2)
    assert torch.equal(torch.random.get_rng_state(), before)
    record, _ = policy(21, 1.0, 60)
    for head in (first, again):
        head.predict(record, record.features_NF)
    assert first.predict(record, record.features_NF).mean_Q == pytest.approx(
        again.predict(record, record.features_NF).mean_Q
    )


def test_it_is_saved_whole_or_refused(brief: QueryAdapterHead, tmp_path: Path) -> None:
    """V0's released code loads a model without its adapter and says nothing."""
    save_head(tmp_path, Saved(brief, LAYOUT, EncoderConfig()))
    again = load_head(tmp_path).head
    record, _ = policy(22, -1.0, 60)
    args = record.take(slice(0, 40)), record.features_NF[40:]
    assert again.predict(*args).mean_Q == pytest.approx(brief.predict(*args).mean_Q, abs=1e-6)
    settings, arrays = brief.state()
    with pytest.raises(ModelError, match=r"(?s)weights do not fit.*adapter\.query_QW"):
        make_head("adapter", LAYOUT).load(settings, {k: v for k, v in arrays.items() if "query_QW" not in k})


def test_the_loss_is_a_quarter_ranking_and_three_quarters_cross_entropy() -> None:
    import torch

    from trainables.value_models.heads.incontext_net import loss_of

    logit, rate = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 0.25]])
    soft = np.mean([np.log1p(np.exp(-1.0)), np.log1p(np.exp(-1.0)) + 0.25])
    ranked = np.log1p(np.exp(-2.0))
    assert float(loss_of(logit, rate)) == pytest.approx(0.25 * ranked + 0.75 * soft, rel=1e-5)
    two = torch.tensor([[0.0], [5.0]])
    level = float(loss_of(two, torch.tensor([[1.0], [0.0]])))
    assert level == pytest.approx(0.75 * np.mean([np.log(2.0), np.log1p(np.exp(5.0))]), rel=1e-5), (
        "prompts of different contexts are no pair"
    )


def test_bad_input() -> None:
    record, _ = policy(0, 1.0, 30)
    with pytest.raises(ModelError, match="was not fitted"):
        make_head("adapter", LAYOUT).predict(record, record.features_NF)
    with pytest.raises(RecordError, match=r"no logged policy has 48 rows \(the longest has 30\)"):
        make_head("adapter", LAYOUT).fit([record])


def test_a_strategy_reads_it_from_disk(tmp_path: Path) -> None:
    layout, encoder = Layout((6, 2), True), EncoderConfig(model="none", ngrams=6)
    head = make_head("adapter", layout, steps=2)
    ids = np.arange(100)
    rate = np.random.default_rng(0).random(100)
    head.fit([Context(Vectors()(ids), rate, np.full(100, 8.0), ids)])
    save_head(tmp_path, Saved(head, layout, encoder))
    strategy = parse_strategy({"preset": "v0", "prior": {"type": "context", "head": str(tmp_path)}}).build()
    strategy.provide(Vectors())  # type: ignore[attr-defined]
    world = FakeEngine(rate, np.zeros(100, np.int64))
    for step in range(2):
        batch = world.step(strategy, step)
        strategy.observe(batch, stats(step))
    assert batch.rollouts == 128
    record = strategy.prior.record_4N  # type: ignore[attr-defined]
    rows = record[0].astype(np.int64)
    context = Context(Vectors()(rows), record[1], record[2] * 0.9 ** (1 - record[3]), rows)
    found = strategy.prior.predict_prompts(ids, np.zeros(100, np.int64)).mean_P  # type: ignore[attr-defined]
    assert found == pytest.approx(head.predict(context, Vectors()(ids)).mean_Q, abs=1e-6)


@pytest.mark.slow
def test_it_reads_from_the_record_what_the_logs_leave_open() -> None:
    """Half of the logged policies like what the other half dislikes: the context alone can tell."""
    head = fitted(300)
    for sign in (1.0, -1.0):
        record, truth = policy(30, sign)
        found = head.predict(record.take(slice(0, 128)), record.features_NF[128:]).mean_Q
        assert auc(found, truth[128:] >= 0.5) > 0.9
