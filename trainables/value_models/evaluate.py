"""Leave-prompts-out evaluation: a head has seen no prompt that it predicts, under any policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainables.errors import RecordError
from trainables.value_models.calibration import Calibration
from trainables.value_models.dataset import Table
from trainables.value_models.heads.base import Float64, Head, Int64
from trainables.value_models.metrics import Quality, bootstrap_se, quality

MakeHead = Callable[[], Head]
"""Makes a head that is not fitted."""


@dataclass(frozen=True)
class Result:
    """One head at one context size."""

    head: str
    size: int
    rows: float
    """Mean number of context rows used: a fold may hold fewer than `size`."""
    quality: Quality
    se: Quality
    """Standard errors, by a bootstrap over prompts."""


@dataclass(frozen=True)
class _Fold:
    policy: int
    context: Int64
    queries: Int64
    others: tuple[Int64, ...]
    """For each other policy, its rows whose prompts are not among the queries."""


def leave_prompts_out(
    table: Table,
    heads: Mapping[str, MakeHead],
    sizes: Sequence[int],
    folds: int = 5,
    seed: int = 0,
    fit: bool = True,
    draws: int = 400,
) -> list[Result]:
    """Judge every head at every context size, on the same folds.

    Folds are by prompt. For each policy and fold a head is fitted on the *other* policies' rows (if `fit`),
    given a context of the policy's own rows, and asked about the policy's held-out prompts. Neither the rows
    it is fitted on nor the context hold a prompt of the fold.

    Raises:
        RecordError: a policy's rows are all right or all wrong, a size is below 1, or there are more folds
            than prompts.
    """
    check_sizes(sizes)
    _check_classes(table, np.arange(len(table.rate_R)))
    plan = _plan(table, folds, seed)
    results = []
    for name, make in heads.items():
        predicted_SR = _run(table, make, plan, sizes, fit, seed)
        for size, predicted_R in zip(sizes, predicted_SR, strict=True):
            used = float(np.mean([min(size, len(fold.context)) for fold in plan]))
            results.append(_result(table, name, size, used, predicted_R, draws))
    return results


def held_out(
    table: Table, queries: Int64, heads: Mapping[str, MakeHead], sizes: Sequence[int], draws: int = 400
) -> list[Result]:
    """Judge every head on given query rows (a mask over the table's rows), with contexts from all others.

    Meant for released files whose context and query prompts are disjoint.

    Raises:
        RecordError: contexts and queries share prompts, a policy's queries are all right or all wrong, or a
            size is below 1.
    """
    check_sizes(sizes)
    asked = np.flatnonzero(queries)
    _check_classes(table, asked)
    rest = np.flatnonzero(~np.asarray(queries, np.bool_))
    shared = np.intersect1d(table.prompt_R[asked], table.prompt_R[rest])
    if len(shared):
        raise RecordError(
            f"evaluation: {len(shared)} prompts are in both the context and the queries; remove them from one"
        )
    plan = [
        _Fold(p, rest[table.policy_R[rest] == p], asked[table.policy_R[asked] == p], _others(table, rest, p))
        for p in range(len(table.policies))
    ]
    found = []
    for name, make in heads.items():
        predicted_SR = _run(table, make, plan, sizes, True, 0)
        for size, predicted_R in zip(sizes, predicted_SR, strict=True):
            used = float(np.mean([min(size, len(fold.context)) for fold in plan]))
            found.append(_result(table, name, size, used, predicted_R, draws, asked))
    return found


def out_of_fold(table: Table, make: MakeHead, size: int, folds: int = 5, seed: int = 0) -> Float64:
    """Return leave-prompts-out predictions (R,) of every row, with contexts of `size` rows."""
    return _run(table, make, _plan(table, folds, seed), [size], True, seed)[0]


def calibrated_later(
    table: Table, make: MakeHead, size: int, folds: int = 5, seed: int = 0
) -> dict[str, Quality]:
    """Measure what calibration on past steps does for the last step: quality by `raw` and by method.

    For each model the maps are fitted on the leave-prompts-out predictions of its earlier steps and applied
    to its last step.

    Raises:
        RecordError: no model has rows of two steps.
    """
    predicted_R = out_of_fold(table, make, size, folds, seed)
    step_R = np.array([table.policies[p][2] for p in table.policy_R])
    models = sorted({policy[:2] for policy in table.policies})
    parts: dict[str, list[Float64]] = {"raw": [], "isotonic": [], "temperature": []}
    rows: list[Int64] = []
    for model in models:
        mine = np.array([table.policies[p][:2] == model for p in table.policy_R])
        last = int(step_R[mine].max())
        past, late = np.flatnonzero(mine & (step_R < last)), np.flatnonzero(mine & (step_R == last))
        if not len(past):
            continue
        rows.append(late)
        parts["raw"].append(predicted_R[late])
        for method in ("isotonic", "temperature"):
            calibration = Calibration(method)
            calibration.fit(predicted_R[past], table.rate_R[past], step_R[past], before=last)
            parts[method].append(calibration(predicted_R[late]))
    if not rows:
        raise RecordError(
            "calibration: no model has rows of two steps, so there is no past to fit on; add earlier steps"
        )
    joined = np.concatenate(rows)
    return {
        name: quality(np.concatenate(values), table.rate_R[joined], table.policy_R[joined])
        for name, values in parts.items()
    }


def check_sizes(sizes: Sequence[int]) -> None:
    """Check that every context size is at least 1.

    Raises:
        RecordError: one is not, or there are none.
    """
    bad = [size for size in sizes if size < 1]
    if bad or not sizes:
        raise RecordError(f"context sizes: {list(sizes)}; give whole numbers from 1")


def _check_classes(table: Table, rows: Int64) -> None:
    """Refuse a policy without right or without wrong rows: its AUC does not exist."""
    for number, (dataset, model, step) in enumerate(table.policies):
        right_R = table.rate_R[rows[table.policy_R[rows] == number]] >= 0.5
        if len(right_R) and (right_R.all() or not right_R.any()):
            word = "right" if right_R.all() else "wrong"
            raise RecordError(
                f"evaluation: of {model} at step {step} on {dataset} all {len(right_R)} rows are {word}, so "
                f"their AUC does not exist; add prompts, or leave this record out"
            )


def _plan(table: Table, folds: int, seed: int) -> list[_Fold]:
    prompts = len(table.features_PF)
    if not 2 <= folds <= prompts:
        raise RecordError(f"folds: {folds} is not from 2 to the number of prompts, {prompts}; change it")
    fold_R = (np.random.default_rng([seed, 0xF01D]).permutation(prompts) % folds)[table.prompt_R]
    plan = []
    for k in range(folds):
        kept = np.flatnonzero(fold_R != k)
        for policy in range(len(table.policies)):
            queries = np.flatnonzero((fold_R == k) & (table.policy_R == policy))
            if len(queries):
                context = kept[table.policy_R[kept] == policy]
                plan.append(_Fold(policy, context, queries, _others(table, kept, policy)))
    return plan


def _others(table: Table, rows: Int64, policy: int) -> tuple[Int64, ...]:
    return tuple(rows[table.policy_R[rows] == p] for p in range(len(table.policies)) if p != policy)


def _run(
    table: Table, make: MakeHead, plan: list[_Fold], sizes: Sequence[int], fit: bool, seed: int
) -> list[Float64]:
    """Predict all rows that the plan asks about; NaN elsewhere. Returns one array per size."""
    predicted_SR = [np.full(len(table.rate_R), np.nan) for _ in sizes]
    for number, fold in enumerate(plan):
        head = make()
        if fit and any(len(rows) for rows in fold.others):
            head.fit([table.context(rows) for rows in fold.others])
        # A smaller context is the beginning of a larger one, so that sizes differ by their rows only.
        order = np.random.default_rng([seed, number]).permutation(fold.context)
        for size, predicted_R in zip(sizes, predicted_SR, strict=True):
            context = table.context(order[:size])
            predicted_R[fold.queries] = head.predict(context, table.features(fold.queries)).mean_Q
    return predicted_SR


def _result(
    table: Table,
    name: str,
    size: int,
    used: float,
    predicted_R: Float64,
    draws: int,
    rows: Int64 | None = None,
) -> Result:
    index = np.arange(len(table.rate_R)) if rows is None else rows
    given = predicted_R[index], table.rate_R[index], table.policy_R[index]
    return Result(name, size, used, quality(*given), bootstrap_se(*given, table.prompt_R[index], draws))
