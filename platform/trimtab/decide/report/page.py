"""The report's HTML: verdicts, figures, failures. The page loads nothing from the network."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from trimtab.decide.compare.read import Axis, Store, TrackedSweep
from trimtab.decide.compare.render import (
    differing_text,
    heading,
    legend_of_names,
    name_text,
    p_text,
    tuning_text,
    verdict_text,
)
from trimtab.decide.compare.table import Comparison, Row
from trimtab.decide.compare.verdict import Decision
from trimtab.decide.compare.words import finding
from trimtab.decide.report import figures
from trimtab.decide.report.series import accuracy_band, configurations, metric_band, noise_band
from trimtab.errors import TrackingError
from trimtab.sweepdir.folder import SweepDir
from trimtab.tracking.store import connect, transient_errors, unreachable

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222 }
body { max-width: 1100px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.6em } h2 { margin-top: 2em; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; width: 100%; font-size: 13px }
th, td { padding: .3em .6em; text-align: right }
th:nth-child(-n+2), td:nth-child(-n+2), td:last-child:has(pre) { text-align: left }
.answer { font-size: 1.15em }
tr:nth-child(even) { background: #f6f6f6 } .better { color: #137333; font-weight: 600 }
.worse { color: #b3261e; font-weight: 600 } pre { white-space: pre-wrap; margin: 0 } .note { color: #666 }
"""


def write_report(
    store: Store, found: Decision, name: str, folder: Path, file: Path, by: Axis, sweep_id: str | None = None
) -> None:
    """Write the report of a sweep to `file`.

    `folder`: the sweep's folder, which holds its study; `by`: unit of compute on the curves' axis.

    Raises:
        TrackingError: the store does not answer, or the file cannot be written.
        NotFoundError: there is no such sweep.
    """
    standing = found.standing
    shown = store.sweep(standing.sweep, sweep_id if standing.sweep == name else None, by)
    searched = store.sweep(name, sweep_id, by)
    answer = f"<p class='answer'>{html.escape(finding(standing, SweepDir(folder).home))}</p>"
    parts = [f"<h1>{html.escape(name)}</h1>", answer, _verdicts(standing)]
    if found.confirmation:
        parts += ["<h2>The search</h2>", _verdicts(found.search)]
    try:
        parts += _curves(store, shown, standing, by)
    except transient_errors() as error:
        raise TrackingError(unreachable(store.uri, error)) from error
    parts += ["<h2>Accuracy and cost: tokens</h2>", _figure(figures.pareto(standing, "tokens"))]
    parts += ["<h2>Accuracy and cost: seconds</h2>", _figure(figures.pareto(standing, "seconds"))]
    for title, figure in figures.study_figures(folder).items():
        parts += [f"<h2>{title}</h2>", _figure(figure)]
    parts += [_failures([searched] if shown.sweep == name else [searched, shown])]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_page(name, parts), encoding="utf-8")
    except OSError as error:
        raise TrackingError(f"--output: {file} cannot be written ({error}); name another file") from error


def attach_report(store: Store, run_id: str, file: Path) -> None:
    """Attach the report to the sweep's MLflow run as `report.html`.

    Raises:
        TrackingError: the store does not answer.
    """
    try:
        connect(store.uri).log_text(run_id, file.read_text(encoding="utf-8"), "report.html")
    except transient_errors() as error:
        raise TrackingError(
            f"{file} is written, but not attached: {unreachable(store.uri, error)}"
        ) from error


def _page(name: str, parts: list[str]) -> str:
    from plotly.offline import get_plotlyjs

    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(name)}</title>"
        f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body>{''.join(parts)}</body></html>"
    )


def _figure(figure: Any) -> str:
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False}))


def _verdicts(found: Comparison) -> str:
    head = (
        "configuration", "verdict", "seeds", "final accuracy", "curve difference [95 %]", "p (Holm)",
        f"{found.by} to {found.reference}'s level", "ratio",
    )  # fmt: skip
    body = "".join(_row(row) for row in found.rows)
    columns = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    who = [*legend_of_names(found.rows), *tuning_text(found).splitlines()]
    lines = "".join(f"<p class='note'>{html.escape(line)}</p>" for line in who)
    note = f"<p class='note'>{html.escape(heading(found))}</p>"
    if found.differing:
        note += f"<p>{html.escape(differing_text(found))}</p>"
    return f"{note}<table><tr>{columns}</tr>{body}</table>{lines}"


def _row(row: Row) -> str:
    interval, crossing, ratio = row.difference, row.crossing, row.ratio
    censored = f" ({crossing.censored} of {crossing.runs} never)" if crossing and crossing.censored else ""
    sd = f" ± {row.final_sd:.3f}" if row.final_sd is not None else ""
    bound = ratio.bound if ratio and ratio.bound != "=" else ""
    cells = (
        str(len(row.seeds)),
        "-" if row.final_mean is None else f"{row.final_mean:.3f}{sd}",
        "-" if interval is None else f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]",
        p_text(row.p_adjusted),
        "-" if crossing is None else f"{'> ' if censored else ''}{crossing.compute:,.0f}{censored}",
        "-" if ratio is None else f"{bound} {ratio.value:.2f}",
    )
    name = f"<td>{html.escape(name_text(row)).replace(chr(10), '<br>')}</td>"
    verdict = f"<td class='{row.verdict}'>{html.escape(verdict_text(row))}</td>"
    numbers = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    return f"<tr>{name}{verdict}{numbers}</tr>"


def _curves(store: Store, sweep: TrackedSweep, standing: Comparison, by: Axis) -> list[str]:
    client = connect(store.uri)
    order = {f"{row.number} {row.label}": place for place, row in enumerate(standing.rows)}
    shown = sorted((c for c in configurations(sweep) if c.runs), key=lambda c: order.get(c.name, 10**6))
    reference = next((c.name for c in shown if c.is_reference), None)
    parts = [f"<h2>Accuracy at equal {by}</h2>", "<p class='note'>mean and sd over seeds (their number)</p>"]

    def draw(title: str, band: Any, y: str, *, logarithmic: bool = False) -> None:
        bands = {c.name: found for c in shown if (found := band(c)) is not None}
        if title:
            parts.append(f"<h2>{title}</h2>")
        if not bands:
            parts.append("<p class='note'>not measured in this sweep</p>")
            return
        parts.append(_figure(figures.curves(bands, reference, f"training {by}", y, logarithmic=logarithmic)))

    def metric(name: str) -> Any:
        return lambda c: metric_band(client, c.runs, name, by)

    draw("", lambda c: accuracy_band(c.runs), f"{sweep.split} accuracy")
    draw("Gradient norm", metric("train/gradient_norm"), "gradient norm")
    draw("Entropy", metric("train/entropy"), "nats per token")
    draw(
        "Gradient noise tr Cov(g) / |E g|²",
        lambda c: noise_band(client, c.runs, by),
        "noise over signal",
        logarithmic=True,
    )
    return parts


def _failures(sweeps: list[TrackedSweep]) -> str:
    rows = [
        f"<tr><td>{html.escape(f'{sweep.sweep}: {run.number} {run.label} seed {run.seed}')}</td>"
        f"<td>{html.escape(run.status)}</td><td><pre>{html.escape(run.error or '')}</pre></td></tr>"
        for sweep in sweeps
        for run in sweep.runs
        if run.status in ("failed", "killed", "stopped")
    ]
    body = (
        f"<table><tr><th>run</th><th>status</th><th>why</th></tr>{''.join(rows)}</table>" if rows else "none"
    )
    return f"<h2>Runs that did not finish</h2>{body}"
