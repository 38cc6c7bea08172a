"""What commands print of a sweep, where they find its results, and their exit codes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trimtab.sweepdir.home import command

if TYPE_CHECKING:
    from trimtab.decide.compare.read import Store
    from trimtab.decide.compare.table import Comparison
    from trimtab.session.sweep import SweepResult
    from trimtab.sweepdir.folder import SweepDir
    from trimtab.sweepspec.spec import SweepSpec

NOTHING_FINISHED, USER_ERROR, INTERRUPTED = 1, 2, 130


def report_end(ctx: click.Context, result: SweepResult) -> None:
    """Print how a sweep ended, then its confirmation if there was one; exit with the code that says so."""
    if result.status == "finished" and result.confirmation is not None:
        _print_tuning(result)
        result = replace(result.confirmation, unsent=[*result.unsent, *result.confirmation.unsent])
    home = result.folder.home
    for line in result.unsent:
        click.echo(f"not tracked: {line}", err=True)
    _print_end(result)
    if result.status == "killed":
        click.echo(
            f"stopped; what finished is in MLflow. Resume it: {command(f'resume {result.name}', home)}",
            err=True,
        )
        ctx.exit(INTERRUPTED)
    if result.status == "failed":
        shown = command("ui", home)
        click.echo(f"no configuration finished; {shown} shows their tracebacks", err=True)
        ctx.exit(NOTHING_FINISHED)


def _print_tuning(result: SweepResult) -> None:
    """Print who got how many configurations in the search, and the best of each, above its confirmation."""
    from trimtab.decide.compare.render import tuning_text
    from trimtab.decide.compare.table import compare
    from trimtab.errors import NotFoundError, TrackingError

    with suppress(NotFoundError, TrackingError):  # the confirmation's table says that the store is down
        store, sweep_id = store_in(result.folder, result.spec)
        click.echo(tuning_text(compare(store.sweep(result.name, sweep_id))), nl=False)


def _print_end(result: SweepResult) -> None:
    """Print the table at the end of a sweep. A store that is down must not look like a failed sweep."""
    from trimtab.decide.compare.table import compare
    from trimtab.decide.compare.words import finding
    from trimtab.errors import NotFoundError, TrackingError

    name, home = result.name, result.folder.home
    try:
        store, sweep_id = store_in(result.folder, result.spec)
        found = compare(store.sweep(name, sweep_id))
    except (NotFoundError, TrackingError) as error:
        click.echo(f"no comparison: {error}; later: {command(f'compare {name}', home)}", err=True)
        return
    print_comparison(found, home)
    shown, again = command("ui", home), command(f"compare {name}", home)
    options = shown.removeprefix("trimtab ui").strip()
    make = f'make ui ARGS="{options}"' if options else "make ui"
    print_view(store, name, sweep_id)
    click.echo(f"curves of every run: {make}, or {shown}; this table again: {again}")
    # Once more where the eye is: the table may be longer than the screen.
    click.echo(finding(found, home))


def print_view(store: Store, name: str, sweep_id: str | None = None) -> None:
    """Print the address of a sweep's chart view, if it has one, as `trimtab ui` or the server serves it."""
    path = store.view(name, sweep_id)
    if path is not None:
        server = store.uri.startswith(("http://", "https://"))
        address = store.uri.rstrip("/") if server else "http://127.0.0.1:5000"
        click.echo(f"curves at equal rollouts, in the MLflow UI: {address}/{path}")


def store_of(home: Path, name: str, uri: str | None = None) -> tuple[Store, str | None]:
    """Return the tracking store of a sweep, and the sweep's id if its folder is here."""
    from trimtab.sweepdir.folder import SweepDir

    folder = SweepDir.of(home, name)
    if not folder.spec_file.is_file():
        check_recorded(home, name, uri)
    return store_in(folder, folder.spec() if folder.spec_file.is_file() else None, uri)


def check_recorded(home: Path, name: str, uri: str | None = None) -> None:
    """Refuse a sweep that the store does not hold, at once where the store is a file: what is there is named.

    Raises:
        NotFoundError: there is no such sweep.
    """
    from trainables.strategies.wording import did_you_mean
    from trimtab.errors import NotFoundError
    from trimtab.sweepdir.folder import SweepDir
    from trimtab.sweepdir.home import tracking_uri
    from trimtab.tracking.store import recorded_sweeps

    where = tracking_uri(home, uri)
    recorded = recorded_sweeps(where)
    if recorded is None or name in recorded:
        return
    there = sorted({*recorded, *(folder.name for folder in SweepDir.all(home))})
    raise NotFoundError(
        f"no sweep named {name!r} in {where}; {did_you_mean(name, there)}sweeps there: "
        f"{', '.join(there) or 'none'}"
    )


def store_in(folder: SweepDir, spec: SweepSpec | None, uri: str | None = None) -> tuple[Store, str | None]:
    """Return a sweep's tracking store and its id."""
    from trimtab.decide.compare.read import Store

    return Store.of(folder, spec, uri), folder.sweep_id


def print_comparison(found: Comparison, home: Path) -> None:
    """Print the answer in a sentence, then the table, at a width of its own where the output is a pipe."""
    from rich.console import Console

    from trimtab.decide.compare.render import render
    from trimtab.decide.compare.words import finding

    console = Console()
    wide = console if console.is_terminal else Console(width=140)
    click.echo(finding(found, home))
    wide.print(render(found))
