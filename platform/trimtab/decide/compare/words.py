"""A comparison in words: what was found, at what saving, and how sure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables.strategies.warmup import LARGE
from trimtab.decide.compare.render import p_text, warmup_text
from trimtab.decide.compare.statistics import CONFIDENCE

if TYPE_CHECKING:
    from trimtab.decide.compare.table import Comparison, Row

UNCONFIRMED = "The best of many looks better than it is: confirm it"


def finding(found: Comparison) -> str:
    """Return the answer in one or two sentences: of a confirmation a verdict, of a search its best lead."""
    reference = found.reference
    rows = [row for row in found.rows if row.difference is not None]
    if found.level is None or not rows:
        return f"nothing to compare yet: {reference} or every other configuration has no two finished seeds"
    best = max(rows, key=_gain)
    if found.purpose == "search":
        return f"the best lead is {_named(best)}: {_difference(best, reference)}. {UNCONFIRMED}"
    better = [row for row in rows if row.verdict == "better"]
    worse = [row for row in rows if row.verdict == "worse"]
    if better:
        others = [f"{_named(row)} as well" for row in better if row is not best]
        more = f" ({', '.join(others)})" if others else ""
        first = f"established: {_named(best)} beats {reference}{more}: {_difference(best, reference)}"
        return (
            f"{first}, p {p_text(best.p_adjusted)} after Holm over {found.family}. {_saving(best, reference)}"
        )
    if worse and len(worse) == len(rows):
        return f"established: every configuration is worse than {reference}; keep {reference}"
    return (
        f"not established: no configuration is better than {reference} at {1 - CONFIDENCE:.0%}; "
        f"the closest is {_named(best)}: {_difference(best, reference)}, p {p_text(best.p_adjusted)}; "
        "more seeds would tell"
    )


def _named(row: Row) -> str:
    """Return its label; one that trained under another strategy for long does not go by its name alone."""
    return row.label if row.warmup < LARGE else f"{row.label} ({warmup_text(row)})"


def _gain(row: Row) -> float:
    return row.difference.mean if row.difference else float("-inf")


def _difference(row: Row, reference: str) -> str:
    found = row.difference
    if found is None:
        return "no paired seeds"
    return (
        f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}] accuracy over the curve against "
        f"{reference} ({found.pairs} paired seeds)"
    )


def _saving(row: Row, reference: str) -> str:
    ratio = row.ratio
    if ratio is None:
        return "What it saves is not known"
    if ratio.bound in (">", "?"):
        return f"Not every run of it reached {reference}'s level, so its saving is not known"
    ends = f" [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio.low is not None else ""
    most = "at most " if ratio.bound == "<" else ""
    return f"It reaches {reference}'s level with {most}{ratio.value:.2f}{ends} of its compute"
