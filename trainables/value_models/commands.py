"""What `trimtab v0` does, without the command line: reads files, returns tables, writes files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainables.errors import RecordError, SpecError
from trainables.value_models.calibration import Calibration
from trainables.value_models.config import EncoderConfig
from trainables.value_models.dataset import Table
from trainables.value_models.encoder import make_encoder
from trainables.value_models.evaluate import Result, leave_prompts_out, out_of_fold
from trainables.value_models.heads.base import Context, Int64
from trainables.value_models.heads.registry import HEADS, Saved, load_head, make_head, save_head
from trainables.value_models.records import Row, check_varied, read_prompts, read_rows, texts_of
from trainables.value_models.route import Point, route


def read_table(files: Sequence[Path], prompts: Path, encoder: EncoderConfig, cache: Path | None) -> Table:
    """Read the rows of several files and encode their prompts.

    Raises:
        RecordError: a file cannot be read, or all scores of a policy are equal.
    """
    rows = [row for path in files for row in read_rows(path)]
    check_varied(rows)
    return Table.of(rows, read_prompts(prompts), make_encoder(encoder, cache), encoder.statistics)


def fit(
    files: Sequence[Path],
    prompts: Path,
    out: Path,
    kind: str = "gp",
    encoder: EncoderConfig | None = None,
    cache: Path | None = None,
    calibrate: Literal["isotonic", "temperature", "none"] = "temperature",
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Fit a head on the records of logged policies and save it to `out`; returns the facts saved with it.

    Calibration is fitted on leave-prompts-out predictions of all steps but the last. Rows of a single step
    have no past, and are refused unless `calibrate` is none.

    Raises:
        RecordError: the rows cannot be read, learnt from or calibrated on.
        SpecError: the kind of head, or a setting, is unknown.
        ModelError: the encoder cannot be loaded.
    """
    encoder = encoder or EncoderConfig()
    table = read_table(files, prompts, encoder, cache)
    head = make_head(kind, table.layout, **(settings or {}))
    calibration = Calibration()
    if calibrate != "none":
        calibration = _calibrate(table, kind, calibrate, settings or {})
    head.fit([table.context(np.flatnonzero(table.policy_R == p)) for p in range(len(table.policies))])
    facts = {
        "policies": [f"{model} step {step} ({dataset})" for dataset, model, step in table.policies],
        "rows": len(table.rate_R),
        "prompts": len(table.features_PF),
        "files": [path.name for path in files],
    }
    save_head(out, Saved(head, table.layout, encoder, calibration, facts))
    return facts


def evaluate(
    files: Sequence[Path],
    prompts: Path,
    kinds: Sequence[str],
    sizes: Sequence[int],
    encoder: EncoderConfig | None = None,
    cache: Path | None = None,
    folds: int = 5,
) -> list[Result]:
    """Judge several heads by leave-prompts-out evaluation.

    Raises:
        RecordError: the rows cannot be read or evaluated.
        SpecError: the kind of a head is unknown.
        ModelError: the encoder cannot be loaded.
    """
    table = read_table(files, prompts, encoder or EncoderConfig(), cache)
    unknown = [kind for kind in kinds if kind not in HEADS]
    if unknown:
        raise SpecError(f"head: {unknown[0]!r} is unknown; choose from {', '.join(HEADS)}")
    makers = {kind: (lambda kind=kind: make_head(kind, table.layout)) for kind in kinds}
    return leave_prompts_out(table, makers, sizes, folds)


def predict(
    head: Path, context: Path, prompts: Path, ids: Sequence[str], cache: Path | None = None
) -> list[dict[str, Any]]:
    """Predict P(r = 1) of prompts under the policy whose record the file `context` holds.

    `ids`: keys of the prompts file; empty: all of them.

    Raises:
        RecordError: an id is unknown, or the rows of `context` belong to several policies.
        ModelError: the head or its encoder cannot be loaded.
    """
    saved = load_head(head)
    texts = read_prompts(prompts)
    unknown = [key for key in ids if key not in texts]
    if unknown:
        raise RecordError(
            f"{prompts}: no prompt {unknown[0]!r}; it holds {len(texts)}, such as {next(iter(texts))!r}"
        )
    rows = read_rows(context)
    keys = list(ids) or list(texts)
    record, place = _context(rows, texts, saved, cache, context)
    features = make_encoder(saved.encoder, cache).encode([texts[key] for key in keys])
    number_Q = np.array([place.get(key, -1) for key in keys], np.int64)
    found = saved.head.predict(record, features, number_Q)
    mean_Q = saved.calibration(found.mean_Q)
    sd_Q = [None] * len(keys) if found.sd_Q is None else [float(sd) for sd in found.sd_Q]
    return [{"key": key, "p": float(p), "sd": sd} for key, p, sd in zip(keys, mean_Q, sd_Q, strict=True)]


def route_files(
    head: Path,
    files: Sequence[Path],
    prompts: Path,
    costs: Sequence[float],
    betas: Sequence[float],
    cache: Path | None = None,
) -> tuple[list[str], list[str], list[Point]]:
    """Route prompts between the policies of several files, each of which holds the record of one.

    Queries are the prompts that no record holds. Returns models, query keys and one point per beta.

    Raises:
        RecordError: there are fewer than two records, no queries, or a bad cost or beta.
        ModelError: the head or its encoder cannot be loaded.
    """
    saved = load_head(head)
    texts = read_prompts(prompts)
    found = [read_rows(path) for path in files]
    known = {row.key for rows in found for row in rows}
    keys = [key for key in texts if key not in known]
    if not keys:
        raise RecordError(f"{prompts}: every prompt is in a record already; add the prompts to route")
    contexts = [_context(rows, texts, saved, cache, path)[0] for rows, path in zip(found, files, strict=True)]
    features = make_encoder(saved.encoder, cache).encode([texts[key] for key in keys])
    names = [f"{rows[0].model} step {rows[0].step}" for rows in found]
    return names, keys, route(saved.head, contexts, costs, features, betas)


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write one JSON object per line."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _context(
    rows: Sequence[Row], prompts: dict[str, str], saved: Saved, cache: Path | None, source: Path
) -> tuple[Context, dict[str, int]]:
    """Return one policy's rows as a context, and the number of each prompt in it."""
    policies = sorted({row.policy for row in rows})
    if len(policies) > 1:
        raise RecordError(
            f"{_second(rows)}: rows of {len(policies)} policies ({policies[0]}, {policies[1]}, ...); a "
            "context is the record of one policy: keep the rows of one model and step"
        )
    check_varied(rows)
    features = make_encoder(saved.encoder, cache).encode(texts_of(rows, prompts, source))
    place: dict[str, int] = {}
    number_N: Int64 = np.array([place.setdefault(row.key, len(place)) for row in rows], np.int64)
    rate_N = np.array([row.rate for row in rows])
    return Context(features, rate_N, np.array([float(row.count) for row in rows]), number_N), place


def _second(rows: Sequence[Row]) -> str:
    """Return file and line of the first row that belongs to another policy than those before it."""
    return next(row.origin for row in rows if row.policy != rows[0].policy)


def _calibrate(
    table: Table, kind: str, method: Literal["isotonic", "temperature"], settings: dict[str, Any]
) -> Calibration:
    """Fit a map on leave-prompts-out predictions of all steps but the last."""
    step_R = np.array([table.policies[p][2] for p in table.policy_R])
    last = int(step_R.max())
    past = np.flatnonzero(step_R < last)
    if not len(past):
        raise RecordError(
            f"calibration: all rows are of step {last}, so there is no past to fit it on; give rows of "
            "several steps, or set --calibration to none"
        )
    predicted_R = out_of_fold(table, lambda: make_head(kind, table.layout, **settings), 256)
    calibration = Calibration(method)
    calibration.fit(predicted_R[past], table.rate_R[past], step_R[past], before=last)
    return calibration
