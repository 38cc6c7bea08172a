"""The comparison as text: a table for the terminal, plain values for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trimtab.decide.compare.statistics import CONFIDENCE, WINDOW, Crossing, Interval, Ratio
from trimtab.decide.compare.table import MIN_SEEDS, Comparison, Row
from trimtab.decide.compare.tuning import Tuned, not_tuned

if TYPE_CHECKING:
    from rich.console import RenderableType


LONG = 20
"""Characters of a label above which a table shows a short name."""


def verdict_text(row: Row) -> str:
    """Word a verdict; one that rests on too few seeds says how many there are."""
    if row.verdict == "reference" or row.pairs >= MIN_SEEDS:
        return row.verdict
    return f"{row.verdict}: {row.pairs} seed{'' if row.pairs == 1 else 's'}"


def name_text(row: Row) -> str:
    """Name a configuration, with the share of its runs that was warm-up on a line of its own.

    A long label is cut to its strategy and number, `v05 #5`, and `legend_of_names` says what that is.
    """
    name = f"{row.number} {row.label}" if len(row.label) <= LONG else _short(row)
    return f"{name}\n({warmup_text(row)})" if row.warmup else name


def legend_of_names(rows: Sequence[Row]) -> list[str]:
    """Say, a line each, what the cut names stand for."""
    return [f"{_short(row)}: {row.label}" for row in rows if len(row.label) > LONG]


def _short(row: Row) -> str:
    return f"{row.label.partition('(')[0].partition(' ')[0]} #{row.number}"


def warmup_text(row: Row) -> str:
    """Say what share of a configuration's runs was warm-up, and under which strategy; empty: none."""
    if not row.warmup:
        return ""
    under = f" under {row.warmup_under}" if row.warmup_under else ""
    if row.warmup < 1:
        return f"{row.warmup:.0%} warm-up{under}"
    return f"all warm-up{under}: its learned prior never acted"


def plain(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as plain values for JSON, with verdicts in words."""
    values = asdict(comparison)
    for row, cells in zip(comparison.rows, values["rows"], strict=True):
        cells["verdict"] = verdict_text(row)
        del cells["pairs"]
    return values


def heading(comparison: Comparison) -> str:
    """Say in one line what the table is and how far it may be trusted."""
    what = (
        f"confirmation of {comparison.confirms}: fresh seeds, {comparison.split} split"
        if comparison.purpose == "confirm"
        else "search only: not confirmed"
    )
    return (
        f"{comparison.sweep} against {comparison.reference} at equal {comparison.by}, "
        f"runs of {comparison.budget:,} rollouts · {what}"
    )


def differing_text(comparison: Comparison) -> str:
    """Say in which settings the compared sweeps differ; empty if in none."""
    if not comparison.differing:
        return ""
    return f"these sweeps do not only differ in strategy: {'; '.join(comparison.differing)}"


def render(comparison: Comparison) -> RenderableType:
    """Render heading, table and a legend that says how to read it."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    reference = comparison.reference
    table = Table(title=heading(comparison), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("configuration", ratio=1, overflow="fold")
    table.add_column("seeds", justify="right")
    table.add_column("final accuracy\n± sd", justify="right")
    table.add_column("rollouts\na run", justify="right")
    table.add_column("tokens\na run", justify="right")
    if comparison.by == "seconds":
        table.add_column("seconds\na run", justify="right")
    table.add_column(f"{comparison.by} to\n{reference}'s level", justify="right")
    table.add_column(f"ratio\n[{CONFIDENCE:.0%} interval]", justify="right")
    table.add_column(f"curve - {reference}\n[{CONFIDENCE:.0%} interval]", justify="right")
    table.add_column("p\n(Holm)", justify="right")
    table.add_column("verdict")
    for row in comparison.rows:
        table.add_row(*_cells(row, comparison), style="bold" if row.verdict == "reference" else "")
    differing = differing_text(comparison)
    first = [Text(f"{differing}\n", style="bold")] if differing else []
    legend = "\n".join([*legend_of_names(comparison.rows), _legend(comparison)])
    return Group(*first, table, Text(legend, style="dim"))


def p_text(p: float | None) -> str:
    """Word a p value; none is 0."""
    if p is None:
        return "-"
    return "< .001" if p < 0.001 else f"{p:.3f}"


def tuning_text(comparison: Comparison) -> str:
    """Say, a line each, who got how many configurations with which best, and whether that is fair."""
    searched = [one for one in comparison.tuning if one.configurations > 1]
    if not searched:
        return ""
    lines = [_tuned_text(one) for one in comparison.tuning]
    unfair = not_tuned(comparison.tuning)
    return "\n".join([*lines, *([unfair] if unfair else []), ""])


def _tuned_text(one: Tuned) -> str:
    """Say how many configurations a strategy got, its best, and whether that is at the end of its range."""
    text = f"{one.family}: {one.configurations} configuration{'' if one.configurations == 1 else 's'}"
    if one.score is not None:
        text += f", best {one.best} ({one.score:.3f} over the curve)"
    if one.edges:
        text += f"; nothing was tried beyond {', '.join(one.edges)}: widen the range"
    return text


def _cells(row: Row, comparison: Comparison) -> tuple[str, ...]:
    where = f"{row.sweep}/" if ", " in comparison.sweep else ""
    return (
        f"{where}{name_text(row)}",
        _seeds(row),
        _accuracy(row),
        _count(row.rollouts),
        _count(row.tokens),
        *([_count(row.seconds)] if comparison.by == "seconds" else []),
        _crossing(row.crossing),
        _ratio(row.ratio),
        _interval(row.difference),
        p_text(row.p_adjusted),
        verdict_text(row),
    )


def _seeds(row: Row) -> str:
    if not row.unfinished:
        return str(len(row.seeds))
    others = ", ".join(f"{count} {status}" for status, count in Counter(row.unfinished).items())
    return f"{len(row.seeds)}\n({others})"


def _accuracy(row: Row) -> str:
    if row.final_mean is None:
        return "-"
    return f"{row.final_mean:.3f}" + (f" ± {row.final_sd:.3f}" if row.final_sd is not None else "")


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _crossing(crossing: Crossing | None) -> str:
    if crossing is None:
        return "-"
    if crossing.censored == 0:
        return f"{crossing.compute:,.0f}"
    return f"> {crossing.compute:,.0f}\n({crossing.censored} of {crossing.runs} never)"


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return "-"
    ends = "" if ratio.low is None else f"\n[{ratio.low:.2f}, {ratio.high:.2f}]"
    return f"{'' if ratio.bound == '=' else ratio.bound + ' '}{ratio.value:.2f}{ends}"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{interval.mean:+.3f}\n[{interval.low:+.3f}, {interval.high:+.3f}]"


def _legend(comparison: Comparison) -> str:
    reference = comparison.reference
    if comparison.level is None:
        level = f"{reference} has no finished run: there is no level to reach."
    else:
        level = f"{reference}'s level is {comparison.level:.3f}: the mean of its final accuracies."
    return (
        f"{tuning_text(comparison)}{level} final accuracy: mean of a run's last {WINDOW} evaluations, where "
        "status shows the last alone.\n"
        f"{comparison.by} to the level: where the running mean of {WINDOW} evaluations first reaches it, by "
        f"the same rule for {reference} itself;\nruns that never do count as the budget, marked > < ?. "
        f"ratio: to {reference}'s own crossing, below 1 is cheaper; Fieller's interval over paired seeds.\n"
        f"curve: mean accuracy over the curve by {comparison.by}, paired by seed, t interval. "
        f"p: t test, Holm's correction over {comparison.family}; verdicts hold at 5 %."
        + ("" if comparison.purpose == "confirm" else " The best of many looks better than it is.")
    )
