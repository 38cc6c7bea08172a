"""Metrics, calibration, leave-prompts-out and routing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from trainables.value_models.calibration import Calibration
from trainables.value_models.dataset import Table
from trainables.value_models.evaluate import calibrated_later, held_out, leave_prompts_out
from trainables.value_models.heads.base import Context, Head, Prediction
from trainables.value_models.heads.scaling import Layout
from trainables.value_models.heads.simple import GlobalRate, Neighbours
from trainables.value_models.metrics import auc, bootstrap_se, calibration_error, quality
from trainables.value_models.route import blended, draw, pareto, route
from trimtab.errors import RecordError


def table(prompts: int = 60, policies: int = 4, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(prompts, 4)).astype(np.float32)
    prompt_R = np.tile(np.arange(prompts), policies)
    policy_R = np.repeat(np.arange(policies), prompts)
    rate_R = rng.binomial(10, 1 / (1 + np.exp(-2 * x[prompt_R, 0]))) / 10
    names = tuple(("d", f"m{i // 2}", 10 * (i % 2)) for i in range(policies))
    return Table(x, prompt_R, policy_R, rate_R, np.full(len(rate_R), 10.0), names, Layout((4,), False))


@dataclass
class Spy(Head):
    """Notes what it is shown: the subject is what an evaluation lets a head see."""

    fitted: list[Context] = field(default_factory=list)
    asked: list[tuple[set[int], set[int], int]] = field(default_factory=list)
    kind = "spy"

    def fit(self, records: Sequence[Context]) -> None:
        self.fitted = list(records)

    def predict(
        self, context: Context, queries_QF: np.ndarray, prompt_Q: np.ndarray | None = None
    ) -> Prediction:
        seen = set(np.concatenate([r.prompt_N for r in self.fitted]).tolist())
        self.asked.append((seen, set(context.prompt_N.tolist()), len(queries_QF)))
        SEEN.append(
            (seen | set(context.prompt_N.tolist()), {tuple(q) for q in queries_QF.tolist()}, len(context))
        )
        return Prediction(np.linspace(0.1, 0.9, len(queries_QF)))


SEEN: list[tuple[set[int], set[tuple[float, ...]], int]] = []


def test_no_prompt_that_is_asked_about_was_seen() -> None:
    data = table()
    SEEN.clear()
    leave_prompts_out(data, {"spy": Spy}, [8, 512], folds=5, draws=20)
    rows = {tuple(x): i for i, x in enumerate(data.features_PF.tolist())}
    asked = 0
    for seen, queries, size in SEEN:
        assert not seen & {rows[q] for q in queries}
        assert size in (8, 48)
        asked += len(queries)
    assert asked == 2 * len(data.rate_R)


def test_held_out_refuses_shared_prompts() -> None:
    data = table()
    queries = data.prompt_R < 20
    (result,) = held_out(data, queries, {"knn": lambda: Neighbours(data.layout)}, [40], draws=50)
    assert result.quality.auc > 0.7
    assert 0 < result.se.auc < 0.2
    with pytest.raises(RecordError, match="60 prompts are in both"):
        held_out(data, data.policy_R == 0, {"knn": lambda: Neighbours(data.layout)}, [40])


@given(st.lists(st.tuples(st.integers(0, 5) | st.floats(0, 1), st.booleans()), min_size=4, max_size=40))
def test_auc_is_sklearns(pairs: list[tuple[float, bool]]) -> None:
    score, right = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs])
    if right.all() or not right.any():
        with pytest.raises(RecordError, match="does not exist"):
            auc(score, right)
    else:
        assert auc(score, right) == pytest.approx(roc_auc_score(right, score))


def test_calibration_error_of_known_predictions() -> None:
    predicted, rate = np.array([0.05, 0.05, 0.95, 1.0]), np.array([0.0, 0.5, 1.0, 1.0])
    assert calibration_error(predicted, rate) == pytest.approx((0.4 + 0.05) / 4)


def test_bootstrap_keeps_a_prompts_rows_together() -> None:
    """Four copies of every row under the same prompt carry no more evidence than one."""
    rng = np.random.default_rng(0)
    p, policy = rng.random(200), np.zeros(200, np.int64)
    rate = (rng.random(200) < p).astype(float)
    once = bootstrap_se(p, rate, policy, np.arange(200)).brier
    copied = bootstrap_se(*(np.tile(x, 4) for x in (p, rate, policy, np.arange(200)))).brier
    assert copied == pytest.approx(once, rel=0.2)


@pytest.mark.parametrize("method", ["isotonic", "temperature"])
def test_calibration_corrects_overconfidence_and_keeps_the_order(method: str) -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(size=4000)
    truth = 1 / (1 + np.exp(-logit))
    rate = (rng.random(4000) < truth).astype(float)
    bold = 1 / (1 + np.exp(-3 * logit))
    calibration = Calibration(method)  # type: ignore[arg-type]
    calibration.fit(bold[:2000], rate[:2000], np.zeros(2000, np.int64), before=1)
    fixed = calibration(bold[2000:])
    assert calibration_error(fixed, rate[2000:]) < 0.04 < calibration_error(bold[2000:], rate[2000:])
    assert (np.diff(fixed[np.argsort(bold[2000:])]) >= -1e-12).all()


def test_calibration_never_reads_the_present() -> None:
    with pytest.raises(RecordError, match="1 of 3 rows are of step 5 or later"):
        Calibration().fit(np.full(3, 0.5), np.ones(3), np.array([1, 4, 5]), before=5)
    with pytest.raises(RecordError, match="at least two"):
        Calibration().fit(np.full(1, 0.5), np.ones(1), np.array([1]), before=5)


def test_calibration_is_judged_on_a_later_step() -> None:
    data = table()
    found = calibrated_later(data, lambda: Neighbours(data.layout, k=1), 40)
    assert found["temperature"].log_loss < found["raw"].log_loss
    once = replace(data, policies=(("d", "a", 3), ("d", "b", 3), ("d", "c", 3), ("d", "e", 3)))
    with pytest.raises(RecordError, match="no past"):
        calibrated_later(once, GlobalRate, 40)


def test_bad_sizes_and_uniform_records() -> None:
    data = table()
    with pytest.raises(RecordError, match="context sizes"):
        leave_prompts_out(data, {}, [0])
    with pytest.raises(RecordError, match="folds: 99"):
        leave_prompts_out(data, {}, [4], folds=99)
    with pytest.raises(RecordError, match="all 3 rows of policy number 0 are wrong"):
        quality(np.full(3, 0.5), np.zeros(3), np.zeros(3, np.int64))


def test_routing_follows_beta_and_the_front_is_a_front() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4)).astype(np.float32)
    strong, weak = 1 / (1 + np.exp(-3 * x[:, 0])), np.full(300, 0.35)
    count, ids = np.full(200, 10.0), np.arange(200)
    records = [Context(x[:200], rate[:200], count, ids) for rate in (strong, weak)]
    truth = np.stack([strong, weak], 1)[200:]
    head = Neighbours(Layout((4,), False))
    points = route(head, records, [4.0, 1.0], x[200:], [0.0, 0.5, 0.9, 1.0], truth)
    assert (points[0].choice_Q == 1).all()
    assert points[-1].true_accuracy > max(strong[200:].mean(), 0.35)
    costs = [p.cost for p in points]
    assert costs == sorted(costs)
    front = pareto(points)
    assert all(a.cost < b.cost and a.true_accuracy < b.true_accuracy for a, b in pairwise(front))
    assert draw(points).count("*") >= len({(p.cost, p.true_accuracy) for p in front}) - 1
    assert blended(records[0], 0.0, 0.25).rate_N == pytest.approx(np.full(200, 0.75))
    for args, word in (
        ((records[:1], [1.0], [1.0]), "at least two"),
        ((records, [1.0, -1.0], [1.0]), "costs"),
        ((records, [1.0, 1.0], [1.5]), "beta"),
    ):
        with pytest.raises(RecordError, match=word):
            route(head, args[0], args[1], x, args[2])
