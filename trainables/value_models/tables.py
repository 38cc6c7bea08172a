"""Evaluation results as text and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

from trainables.value_models.evaluate import Result

COLUMNS = ("head", "context", "intra-AUC", "Brier", "calibration error", "log loss")


def rows(results: Sequence[Result]) -> list[list[str]]:
    """Return one row per result, each figure with its bootstrap standard error."""
    table = []
    for r in results:
        size = str(r.size) if r.rows == r.size else f"{r.size} ({r.rows:.0f} there)"
        pairs = zip(astuple(r.quality), astuple(r.se), strict=True)
        table.append([r.head, size, *[f"{value:.3f} ± {se:.3f}" for value, se in pairs]])
    return table


def as_text(results: Sequence[Result]) -> str:
    """Format results as aligned columns."""
    lines = [list(COLUMNS), *rows(results)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def as_markdown(results: Sequence[Result]) -> str:
    """Format results as a Markdown table."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *rows(results)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
