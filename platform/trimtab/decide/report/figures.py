"""The report's figures as plotly objects; those of the study are drawn by Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trimtab.decide.compare.table import Comparison
from trimtab.decide.report.series import Band
from trimtab.errors import TrimtabError
from trimtab.sweepdir.folder import SweepDir

if TYPE_CHECKING:
    import optuna

COLOURS = (
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#e377c2", "#8c564b", "#bcbd22",
)  # fmt: skip
REFERENCE = "#222222"
SHOWN = 9
"""Configurations drawn from the start; the others can be switched on in the legend."""


def curves(
    bands: Mapping[str, Band], reference: str | None, x: str, y: str, *, logarithmic: bool = False
) -> Any:
    """Draw mean curves, each with a band of one standard deviation over seeds."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, (name, band) in enumerate(bands.items()):
        is_reference = name == reference
        colour = REFERENCE if is_reference else COLOURS[number % len(COLOURS)]
        common = {"legendgroup": name, "visible": True if number < SHOWN or is_reference else "legendonly"}
        if band.seeds > 1:
            figure.add_scatter(
                x=[*band.compute_E, *band.compute_E[::-1]],
                y=[*(band.mean_E + band.sd_E), *(band.mean_E - band.sd_E)[::-1]],
                fill="toself", fillcolor=colour, opacity=0.15, line={"width": 0}, hoverinfo="skip",
                showlegend=False, **common,
            )  # fmt: skip
        figure.add_scatter(
            x=band.compute_E, y=band.mean_E, name=f"{name} ({band.seeds})", mode="lines",
            line={"color": colour, "width": 3 if is_reference else 2}, **common,
        )  # fmt: skip
    figure.update_layout(xaxis_title=x, yaxis_title=y, template="plotly_white", height=460, margin={"t": 20})
    if logarithmic:
        figure.update_yaxes(type="log")
    return figure


def pareto(found: Comparison, cost: Literal["tokens", "seconds"]) -> Any:
    """Draw final accuracy against the cost of a run, with the Pareto front."""
    import plotly.graph_objects as go

    points = sorted(
        (spent, row.final_mean, f"{row.number} {row.label}")
        for row in found.rows
        if (spent := row.tokens if cost == "tokens" else row.seconds) is not None
        and row.final_mean is not None
    )
    front, best = [], float("-inf")
    for x, y, _ in points:
        if y > best:
            front.append((x, y))
            best = y
    figure = go.Figure()
    figure.add_scatter(
        x=[x for x, _, _ in points], y=[y for _, y, _ in points], text=[name for _, _, name in points],
        mode="markers+text", textposition="top center", name="configurations",
    )  # fmt: skip
    figure.add_scatter(
        x=[x for x, _ in front], y=[y for _, y in front], mode="lines", line={"shape": "hv"}, name="front"
    )
    figure.update_layout(
        xaxis_title=f"{cost} a run", yaxis_title="final accuracy", template="plotly_white", height=420,
        margin={"t": 20},
    )  # fmt: skip
    return figure


def study_figures(folder: Path) -> dict[str, Any]:
    """Draw Optuna's figures of the sweep's study, by title. Those that need more trials are left out."""
    study = _study(folder)
    if study is None:
        return {}
    import optuna
    from optuna.visualization import plot_parallel_coordinate, plot_param_importances

    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    searched = {name for trial in complete for name in trial.params}
    if len(complete) < 2 or not searched:
        return {}
    found = {"Parallel coordinates": plot_parallel_coordinate(study)}
    try:
        found["Parameter importance"] = plot_param_importances(study)
    except (ValueError, RuntimeError):
        # All trials scored the same, or share one value of every parameter: importance is undefined.
        return found
    return found


def _study(folder: Path) -> optuna.Study | None:
    sweep = SweepDir(folder)
    if not sweep.spec_file.is_file():
        return None
    from trimtab.search.study import read_study

    try:
        return read_study(sweep.spec(), folder.name, folder)
    except TrimtabError:
        return None
