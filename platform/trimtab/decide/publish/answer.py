"""Write what was found on the sweep's MLflow run: a description that says it, metrics that sort by it.

Everything here may be repeated: it replaces what an earlier comparison wrote, and nothing that a user did.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.decide.compare.read import Store
from trimtab.decide.compare.render import heading, p_text, verdict_text
from trimtab.decide.compare.statistics import CONFIDENCE
from trimtab.decide.compare.verdict import Decision, decide
from trimtab.decide.compare.words import finding
from trimtab.decide.publish.view import save_view
from trimtab.errors import TrackingError, TrimtabError
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepdir.home import DEFAULT, command
from trimtab.tracking import names
from trimtab.tracking.store import connect, transient_errors, unreachable, view_path
from trimtab.tracking.translate import metric_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from trimtab.decide.compare.table import Comparison, Row

NOTE = "mlflow.note.content"
"""Tag that MLflow's UI shows as the description of a run."""
MAX_NOTE = 5000
"""Length of a tag that every store accepts, in characters."""
COMPARED = "compared/"
"""Prefix of the metrics that hold a comparison."""


def publish(store: Store, name: str, sweep_id: str | None = None, home: Path = DEFAULT) -> None:
    """Write the answer of a sweep on its runs, and of the search too if the sweep confirms one.

    The commands in it are for `home`.

    Raises:
        NotFoundError: there is no such sweep.
        TrackingError: the store does not answer.
    """
    try:
        confirmed = _publish(store, name, sweep_id, home)
        if confirmed is not None:
            _publish(store, confirmed, None, home)
    except transient_errors() as error:
        raise TrackingError(unreachable(store.uri, error)) from error


def publish_ended(folder: SweepDir, store: Store) -> list[str]:
    """Publish a sweep that has ended; return, as the tracker does, what could not be written and why."""
    try:
        publish(store, folder.name, folder.sweep_id, folder.home)
    except TrimtabError as error:
        return [f"the answer of {folder.name} is not on its MLflow run ({error})"]
    return []


def _publish(store: Store, name: str, sweep_id: str | None, home: Path) -> str | None:
    """Publish one sweep and return the name of the search that it confirms."""
    found = decide(store, [name], sweep_id=sweep_id)
    client = connect(store.uri)
    runs = store.search({names.SWEEP: name} | ({names.SWEEP_ID: sweep_id} if sweep_id else {}))
    parent = next(run for run in runs if run.data.tags.get(names.ROLE) == "sweep")
    standing = found.standing
    best = next((row for row in standing.rows if row.difference is not None), None)
    _log(client, parent, _values(best, standing) if best else {})
    by_trial = {row.trial: row for row in found.search.rows}
    for run in runs:
        row = by_trial.get(run.data.tags.get(names.TRIAL, ""))
        if row is not None:
            _log(client, run, _values(row, found.search))
    if found.confirmation is None:
        save_view(client, parent, store.sweep(name, sweep_id), standing)
    _describe(client, parent, _description(store, parent, found, home))
    return found.search.confirms


def _values(row: Row, found: Comparison) -> dict[str, float]:
    """Return the metrics of a configuration. A ratio that is a bound sorts by it; `?` is no bound."""
    minus, ratio = metric_name(f"{COMPARED}minus_{found.reference}"), f"{COMPARED}ratio"
    if row.verdict == "reference":
        return {minus: 0.0, ratio: 1.0}
    values = {}
    if row.difference is not None:
        values = {
            minus: row.difference.mean,
            f"{minus}_low": row.difference.low,
            f"{minus}_high": row.difference.high,
        }
    if row.ratio is not None and row.ratio.bound != "?":
        values[ratio] = row.ratio.value
    return values


def _log(client: MlflowClient, run: Run, values: dict[str, float]) -> None:
    """Log what is not there yet: a value that is logged again unchanged would become a curve."""
    for name, value in values.items():
        if run.data.metrics.get(name) != value:
            client.log_metric(str(run.info.run_id), name, value)


def _describe(client: MlflowClient, parent: Run, text: str) -> None:
    """Write the description, unless a user has written one."""
    run_id, tags = str(parent.info.run_id), parent.data.tags
    before = tags.get(NOTE)
    if before == text or (before and tags.get(names.DESCRIBED) != _hash(before)):
        return
    client.set_tag(run_id, names.DESCRIBED, _hash(text))
    client.set_tag(run_id, NOTE, text)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _description(store: Store, parent: Run, found: Decision, home: Path) -> str:
    """Return the finding, the table and the links, in Markdown; rows that do not fit are left out."""
    standing = found.standing
    head = f"**{_escaped(finding(standing, home))}**\n\n{_escaped(heading(standing))}\n\n"
    links = _links(store, parent, found)
    lines = _table(standing)
    left_out = 0
    while len(head) + len("\n".join(lines)) + len(links) + 100 > MAX_NOTE and len(lines) > 3:
        lines.pop()
        left_out += 1
    more = f"\n\n{left_out} more: `{command(f'compare {standing.sweep}', home)}`" if left_out else ""
    return (head + "\n".join(lines) + more + links)[:MAX_NOTE]


def _table(found: Comparison) -> list[str]:
    reference = _escaped(found.reference)
    titles = [
        "configuration",
        "seeds",
        "final accuracy",
        f"minus {reference} [{CONFIDENCE:.0%}]",
        f"{found.by} / {reference}'s",
        "p (Holm)",
        "verdict",
    ]
    rows = [titles, ["---"] * len(titles)]
    for row in found.rows:
        difference, ratio = row.difference, row.ratio
        cells = [
            _escaped(f"{row.number} {row.label}"),
            str(len(row.seeds)),
            "-" if row.final_mean is None else f"{row.final_mean:.3f}",
            f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]" if difference else "-",
            "-" if ratio is None else f"{'' if ratio.bound == '=' else ratio.bound + ' '}{ratio.value:.2f}",
            p_text(row.p_adjusted),
            verdict_text(row),
        ]
        rows.append(cells)
    return [f"| {' | '.join(cells)} |" for cells in rows]


def _links(store: Store, parent: Run, found: Decision) -> str:
    """Return links within MLflow's UI: to the view, the confirmation, the confirmed search."""
    other = found.confirmation.sweep if found.confirmation else found.search.confirms
    experiment = str(parent.info.experiment_id)
    if not other:
        return _view_link(str(parent.info.run_id), experiment)
    runs = store.search({names.SWEEP: other, names.ROLE: "sweep"})
    what = "the confirmation" if found.confirmation else "the search"
    page = f"#/experiments/{experiment}/runs"
    linked = "".join(f"\n\n[{what}: {other}]({page}/{run.info.run_id})" for run in runs[:1])
    shown = runs[0] if found.confirmation and runs else parent
    return _view_link(str(shown.info.run_id), experiment) + linked


def _view_link(run_id: str, experiment: str) -> str:
    return f"\n\n[the curves at equal rollouts]({view_path(run_id, experiment)})"


def _escaped(text: str) -> str:
    for sign in "\\|*_<[":
        text = text.replace(sign, f"\\{sign}")
    return text
