"""Heads: what they learn from a context, what they say without one, and that saving changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainables.value_models.config import EncoderConfig
from trainables.value_models.heads.base import Context
from trainables.value_models.heads.gp import GaussianProcess, moments
from trainables.value_models.heads.registry import HEADS, Saved, load_head, make_head, save_head
from trainables.value_models.heads.scaling import Layout
from trainables.value_models.metrics import auc
from trimtab.errors import ModelError, RecordError, SpecError

LAYOUT = Layout((6, 3), True)
LIGHT = [kind for kind in HEADS if kind not in ("adapter", "tabpfn")]


def world(policies: int, rows: int, seed: int = 0, each: int = 8) -> tuple[list[Context], np.ndarray]:
    """Policies of different strength on prompts whose difficulty is a smooth function of their features."""
    rng = np.random.default_rng(seed)
    records, truths = [], []
    for policy in range(policies):
        x = rng.normal(size=(rows, 9)).astype(np.float32)
        logit = 2.0 * np.tanh(x[:, 0] + 0.5 * x[:, 6]) + 0.5 * policy - 0.5
        truth = 1 / (1 + np.exp(-logit))
        rate = rng.binomial(each, truth) / each
        records.append(Context(x, rate, np.full(rows, float(each)), policy * rows + np.arange(rows)))
        truths.append(truth)
    return records, np.array(truths)


@pytest.mark.parametrize("kind", LIGHT)
def test_every_head_without_a_context_and_with_a_uniform_one(kind: str) -> None:
    (record,), _ = world(1, 40)
    head = make_head(kind, LAYOUT)
    empty = head.predict(Context.empty(9), record.features_NF)
    assert empty.mean_Q == pytest.approx(np.full(40, 0.5))
    for rate in (0.0, 1.0):
        uniform = Context(record.features_NF, np.full(40, rate), record.count_N, record.prompt_N)
        found = head.predict(uniform, record.features_NF + 0.1)
        assert ((found.mean_Q >= 0) & (found.mean_Q <= 1)).all()


@pytest.mark.parametrize(("kind", "least"), [("knn", 0.75), ("smoother", 0.75), ("gp", 0.85)])
def test_heads_rank_new_prompts(kind: str, least: float) -> None:
    records, truths = world(1, 400)
    context, queries = records[0].take(slice(0, 256)), records[0].take(slice(256, None))
    found = make_head(kind, LAYOUT).predict(context, queries.features_NF)
    assert auc(found.mean_Q, truths[0, 256:] >= 0.5) > least


def test_logged_policies_help_where_the_context_is_small() -> None:
    records, truths = world(4, 300)
    fitted, bare = GaussianProcess(LAYOUT, inducing=128), GaussianProcess(LAYOUT)
    fitted.fit(records[:3])
    context, queries = records[3].take(slice(0, 16)), records[3].take(slice(16, None))
    error = {
        name: np.mean((head.predict(context, queries.features_NF).mean_Q - truths[3, 16:]) ** 2)
        for name, head in (("fitted", fitted), ("bare", bare))
    }
    assert error["fitted"] < 0.7 * error["bare"]


def test_uncertainty_is_of_the_right_size() -> None:
    """Over many policies and prompts the errors are as large as the standard deviations say."""
    squares = []
    for seed in range(8):
        records, truths = world(1, 200, seed)
        found = GaussianProcess(LAYOUT).predict(records[0].take(slice(0, 100)), records[0].features_NF[100:])
        assert found.sd_Q is not None
        squares.append(((found.mean_Q - truths[0, 100:]) / found.sd_Q) ** 2)
    assert 0.6 < np.mean(squares) < 1.6
    empty = GaussianProcess(LAYOUT).predict(Context.empty(9), records[0].features_NF)
    # Pass rate uniform on [0, 1] around an unknown pool mean: both variances are 1/12.
    assert empty.sd_Q == pytest.approx(np.full(200, np.sqrt(2 / 12)))


def test_a_prompt_of_the_context_is_remembered() -> None:
    records, _ = world(1, 60)
    record = records[0]
    odd = Context(
        record.features_NF, np.where(np.arange(60) == 0, 1.0, 0.1), record.count_N * 4, record.prompt_N
    )
    head = GaussianProcess(LAYOUT)
    asked = record.features_NF[:1]
    known = head.predict(odd, asked, record.prompt_N[:1]).mean_Q[0]
    stranger = head.predict(odd, asked).mean_Q[0]
    assert known > 0.6 > stranger + 0.1


def test_moments_tell_spread_from_noise() -> None:
    rng = np.random.default_rng(0)
    rate = rng.beta(2.0, 2.0, 20_000)
    records = [
        Context(
            np.zeros((len(rate), 1), np.float32),
            rng.binomial(4, rate) / 4,
            np.full(len(rate), 4.0),
            np.arange(len(rate)),
        )
    ]
    found = moments(records)
    assert found.total == pytest.approx(0.05, abs=0.003)
    assert found.within == pytest.approx(0.2, abs=0.003)


@pytest.mark.parametrize("kind", ["global", "knn", "gp"])
def test_a_saved_head_predicts_the_same(tmp_path: Path, kind: str) -> None:
    records, _ = world(3, 80)
    head = make_head(kind, LAYOUT)
    head.fit(records[:2])
    save_head(tmp_path, Saved(head, LAYOUT, EncoderConfig(), facts={"rows": 160}))
    again = load_head(tmp_path)
    args = records[2].take(slice(0, 40)), records[2].features_NF[40:]
    assert again.head.predict(*args).mean_Q == pytest.approx(head.predict(*args).mean_Q, abs=1e-6)
    assert again.facts == {"rows": 160}


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="head: 'forest' is unknown"):
        make_head("forest", LAYOUT)
    with pytest.raises(SpecError, match="head 'gp'"):
        make_head("gp", LAYOUT, colour=3)
    with pytest.raises(ModelError, match="holds no fitted head"):
        load_head(tmp_path)
    (tmp_path / "head.json").write_text("{}")
    np.savez(tmp_path / "arrays.npz")
    with pytest.raises(ModelError, match="cannot be read"):
        load_head(tmp_path)
    with pytest.raises(RecordError, match=r"context row 1: mean reward 1\.5"):
        Context(np.zeros((2, 1), np.float32), np.array([0.5, 1.5]), np.ones(2), np.arange(2))
    with pytest.raises(RecordError, match="no rows"):
        GaussianProcess(LAYOUT).fit([])
    records, _ = world(1, 10)
    with pytest.raises(ModelError, match="checkpoint '' is not a file"):
        make_head("tabpfn", LAYOUT).predict(records[0], records[0].features_NF)
