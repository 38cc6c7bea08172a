"""A comparison in words: what was found, at what saving, how sure, and what to type next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainables.strategies.warmup import LARGE
from trimtab.decide.compare.render import p_text, warmup_text
from trimtab.decide.compare.statistics import CONFIDENCE
from trimtab.sweepdir.home import DEFAULT, command

if TYPE_CHECKING:
    from trimtab.decide.compare.table import Comparison, Row


def finding(found: Comparison, home: Path = DEFAULT) -> str:
    """Return the answer in one or two sentences, then the next command.

    Of a confirmation it is a verdict, of a search its best lead. The command is for `home`.
    """
    reference = found.reference
    rows = [row for row in found.rows if row.difference is not None]
    if found.level is None or not rows:
        return f"nothing to compare yet: {reference} or every other configuration has no two finished seeds"
    if found.purpose == "search":
        best = max(rows, key=_gain)
        return f"lead: {_sentence(best, found)}. Search only, not confirmed{_next('confirm', found, home)}"
    better = [row for row in rows if row.verdict == "better"]
    if better:
        best = max(better, key=_gain)
        others = ", ".join(_named(row) for row in better if row is not best)
        also = f". Also better: {others}" if others else ""
        return f"established: {_sentence(best, found)}{also}. Ship it{_next('promote', found, home)}"
    best = max(rows, key=_gain)
    if all(row.verdict == "worse" for row in rows):
        return f"established: every configuration is worse than {reference}; keep {reference}"
    more = _next("confirm", found, home, f" --seeds {2 * best.pairs}")
    return (
        f"not established: no configuration is better than {reference} at {1 - CONFIDENCE:.0%}. The closest: "
        f"{_sentence(best, found)}. More seeds would tell{more}"
    )


def _sentence(row: Row, found: Comparison) -> str:
    """Say what a configuration saves, or that it does better; in brackets how much and how sure."""
    saving = _saving(row, found)
    says = (
        f"{_named(row)} reaches {found.reference}'s level with {saving}"
        if saving
        else f"{_named(row)} against {found.reference}, whose level not every run of it reached"
    )
    details = "; ".join(part for part in (_gain_text(row, found), _seconds(row, found)) if part)
    return f"{says} ({details})"


def _saving(row: Row, found: Comparison) -> str:
    """Word the compute to the reference's level: `31 % fewer rollouts [22, 40]`; empty if it is not known."""
    ratio = row.ratio
    if ratio is None or ratio.bound in (">", "?"):
        return ""
    ends = ""
    if ratio.low is not None and ratio.high is not None:
        ends = f" [{100 * (1 - ratio.high):.0f}, {100 * (1 - ratio.low):.0f}]"
    least = "at least " if ratio.bound == "<" else ""
    if ratio.value <= 1:
        return f"{least}{1 - ratio.value:.0%} fewer {found.by}{ends}"
    return f"{'at most ' if ratio.bound == '<' else ''}{ratio.value - 1:.0%} more {found.by}"


def _gain_text(row: Row, found: Comparison) -> str:
    gain = row.difference
    if gain is None:
        return "no paired seeds"
    text = (
        f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] accuracy over the curve at equal {found.by}, "
        f"{gain.pairs} paired seeds"
    )
    if row.p_adjusted is None:
        return text
    return f"{text}, p {p_text(row.p_adjusted)} after Holm over {found.family}"


def _seconds(row: Row, found: Comparison) -> str:
    """Word how much longer a run takes; empty where seconds are compared anyway or are not known."""
    theirs = next((other.seconds for other in found.rows if other.verdict == "reference"), None)
    if found.by == "seconds" or not row.seconds or not theirs:
        return ""
    more = row.seconds / theirs - 1
    return f"{abs(more):.0%} {'more' if more >= 0 else 'fewer'} seconds a run"


def _next(verb: str, found: Comparison, home: Path, options: str = "") -> str:
    """Word the next command; nothing if several sweeps are compared."""
    name = found.confirms or found.sweep
    return "" if ", " in name else f": {command(f'{verb} {name}', home)}{options}"


def _named(row: Row) -> str:
    """Return its label; one that trained under another strategy for long does not go by its name alone."""
    return row.label if row.warmup < LARGE else f"{row.label} ({warmup_text(row)})"


def _gain(row: Row) -> float:
    return row.difference.mean if row.difference else float("-inf")
