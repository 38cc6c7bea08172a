"""Judge V0's heads on the released sample: `python -m benchmarks.v0_heads [--data DIR] [--write docs/v0.md]`

Two evaluations: leave-prompts-out (five folds by prompt over the 3,072 context rows, fitted on the other
policies), and the 192 released training queries with contexts from the context file, on disjoint prompts.
Each value has its bootstrap standard error over prompts. `--write` replaces the text between the markers of
that page. Also prints the time of 1,000 predictions from 256 rows.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trainables.value_models.config import EncoderConfig
from trainables.value_models.dataset import Table
from trainables.value_models.encoder import make_encoder
from trainables.value_models.evaluate import calibrated_later, held_out, leave_prompts_out
from trainables.value_models.heads.gp import GaussianProcess
from trainables.value_models.heads.registry import make_head
from trainables.value_models.heads.scaling import Layout
from trainables.value_models.records import read_prompts, read_rows
from trainables.value_models.tables import as_markdown

SIZES = (32, 128, 256, 512)
HEADS = ("global", "mean", "knn", "smoother", "gp")
BEGIN, END = "<!-- v0_heads: begin -->", "<!-- v0_heads: end -->"
TARGET_MS = 200.0


def table(data: Path, cache: Path) -> tuple[Table, np.ndarray]:
    """Load all rows of the sample, and a mask of the released training queries."""
    context, queries = read_rows(data / "context.jsonl"), read_rows(data / "train.jsonl")
    encoder = EncoderConfig()
    found = Table.of(
        [*context, *queries],
        read_prompts(data / "prompts.json"),
        make_encoder(encoder, cache),
        encoder.statistics,
    )
    return found, np.arange(len(context) + len(queries)) >= len(context)


def only(full: Table, rows: np.ndarray) -> Table:
    """Return the table with some of its rows."""
    return Table(
        full.features_PF,
        full.prompt_R[rows],
        full.policy_R[rows],
        full.rate_R[rows],
        full.count_R[rows],
        full.policies,
        full.layout,
    )


def prediction_ms(full: Table, fitted: bool) -> float:
    """Return the milliseconds for 1,000 prompts with 256 context rows, features given; the best of five."""
    head = GaussianProcess(full.layout)
    rows = np.arange(len(full.rate_R))
    if fitted:
        head.fit([full.context(rows[full.policy_R == p]) for p in range(1, len(full.policies))])
    context = full.context(rows[full.policy_R == 0][:256])
    if not fitted:
        head = head.adapted(context)
    queries = full.features_PF[:1000]
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        head.predict(context, queries)
        seconds.append(time.perf_counter() - start)
    return 1e3 * min(seconds)


def makers(layout: Layout) -> dict[str, Callable[[], object]]:
    return {kind: (lambda kind=kind: make_head(kind, layout)) for kind in HEADS}


def report(full: Table, queries: np.ndarray, draws: int) -> str:
    context = only(full, np.flatnonzero(~queries))
    # Folds leave out prompts of the context file. Prompts that only the queries have are not used.
    used, number = np.unique(context.prompt_R, return_inverse=True)
    context = Table(
        full.features_PF[used],
        number,
        context.policy_R,
        context.rate_R,
        context.count_R,
        full.policies,
        full.layout,
    )
    heads = makers(full.layout)
    parts = ["Leave-prompts-out, five folds over the 3,072 context rows:", ""]
    parts += [as_markdown(leave_prompts_out(context, heads, SIZES, draws=draws)), ""]
    parts += ["The 192 released training queries, prompts disjoint from every context:", ""]
    parts += [as_markdown(held_out(full, queries, heads, SIZES, draws=draws)), ""]
    parts += ["Calibration fitted on each model's steps 16 and 64, judged on step 256 (gp, 256 rows):", ""]
    parts += ["| map | intra-AUC | Brier | calibration error | log loss |", "| --- | --- | --- | --- | --- |"]
    for name, q in calibrated_later(context, heads["gp"], 256).items():
        parts.append(f"| {name} | {q.auc:.3f} | {q.brier:.3f} | {q.calibration:.3f} | {q.log_loss:.3f} |")
    return "\n".join(parts)


def write(page: Path, text: str) -> None:
    """Replace the text between the markers."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/v0"))
    parser.add_argument("--cache", type=Path, default=Path(".trimtab/embeddings"))
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--speed", action="store_true", help="only the time of 1,000 predictions")
    args = parser.parse_args()
    full, queries = table(args.data, args.cache)
    if not args.speed:
        text = report(full, queries, args.draws)
        print(text, flush=True)
        if args.write:
            write(args.write, text)
    missed = 0
    for name, fitted in (("record alone", False), ("fitted, 1,024 inducing prompts", True)):
        ms = prediction_ms(full, fitted)
        missed += ms > TARGET_MS
        print(f"1,000 prompts x 256 rows, {name}: {ms:.0f} ms = {ms / TARGET_MS:.2f} of {TARGET_MS:.0f} ms")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
