"""Commands that come after a sweep: track, compare, confirm, report, promote, rollback, train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trimtab.cli.options import HOME, set_option
from trimtab.cli.outcome import (
    INTERRUPTED,
    NOTHING_FINISHED,
    check_recorded,
    print_comparison,
    print_view,
    store_of,
)
from trimtab.cli.submit import cluster_options
from trimtab.sweepdir.home import command

if TYPE_CHECKING:
    from trimtab.decide.compare.read import Axis
    from trimtab.planning.machine import Machine

SET = set_option("file", "production.steps=200")
URI = click.option("--uri", help="MLflow tracking URI; default: the sweep's own.")
BY = click.option(
    "--by",
    type=click.Choice(["rollouts", "tokens", "seconds"]),
    default="rollouts",
    show_default=True,
    help="Unit that compute is counted in.",
)


@click.command()
@click.argument("name")
@click.argument("others", nargs=-1)
@click.option(
    "--reference", help="Label, trial or number of a configuration of NAME; default: its reference."
)
@BY
@HOME
@URI
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def compare(
    name: str,
    others: tuple[str, ...],
    reference: str | None,
    by: Axis,
    home: Path,
    uri: str | None,
    as_json: bool,
) -> None:
    """Compare the configurations of sweep NAME (and of OTHERS) with its reference, from MLflow alone.

    If NAME was confirmed, the verdict comes from the confirmation's runs alone.
    """
    from trimtab.decide.compare.render import plain, tuning_text
    from trimtab.decide.compare.table import require_reference
    from trimtab.decide.compare.verdict import decide

    store, sweep_id = store_of(home, name, uri)
    for other in others:
        check_recorded(home, other, store.uri)
    found = decide(store, [name, *others], reference, by, sweep_id)
    standing = found.standing
    if as_json:
        search = plain(found.search) if found.confirmation else None
        click.echo(json.dumps({**plain(standing), "search": search}, indent=2))
    else:
        print_comparison(standing, home)
        if found.confirmation:
            click.echo(tuning_text(found.search), nl=False)
        if not others:
            print_view(store, standing.sweep, sweep_id if standing.sweep == name else None)
        if found.confirmation:
            again = command(f"compare {name} --json", home)
            click.echo(f"the search itself: {again}, under search")
    require_reference(standing, home)


@click.command()
@click.argument("name")
@HOME
@URI
def track(name: str, home: Path, uri: str | None) -> None:
    """Send MLflow what it lacks of sweep NAME, such as after a sweep whose tracking server was down."""
    from trimtab.decide.compare.read import Store
    from trimtab.decide.publish.answer import publish_ended
    from trimtab.errors import TrackingError
    from trimtab.sweepdir.folder import SweepDir
    from trimtab.tracking.catch_up import catch_up

    folder = SweepDir.existing(home, name)
    with folder.driven():
        left = catch_up(folder.path, folder.spec(), uri)
        left = left or publish_ended(folder, Store.of(folder, folder.spec(), uri))
    if left:
        raise TrackingError("; ".join(left))
    click.echo(f"MLflow holds everything of {name}")


@click.command()
@click.argument("name")
@click.option("--top", type=click.IntRange(1), help="Best configurations; default: the spec's (1).")
@click.option("--each", is_flag=True, default=None, help="The best of every candidate.")
@click.option("--seeds", type=click.IntRange(1), help="Fresh seeds of each; default: the spec's (8).")
@click.option(
    "--name", "own_name", help="Name of the confirmation; default: NAME-confirm, numbered if taken."
)
@HOME
@cluster_options
@click.pass_context
def confirm(
    ctx: click.Context,
    name: str,
    top: int | None,
    each: bool | None,
    seeds: int | None,
    own_name: str | None,
    home: Path,
    address: str | None,
    capacity: Machine | None,
) -> None:
    """Retrain the best of sweep NAME and its reference under fresh seeds, judged on the test split."""
    from trimtab import api
    from trimtab.decide.confirm import confirmation_spec

    spec = confirmation_spec(home, name, top, seeds, each=each).model_copy(update={"home": home})
    result = api.sweep(spec, name=own_name, address=address, capacity=capacity)
    for line in result.unsent:
        click.echo(f"not tracked: {line}; later: {command(f'track {result.name}', home)}", err=True)
    if result.status != "finished":
        click.echo(f"{result.status}; resume it: {command(f'resume {result.name}', home)}", err=True)
        ctx.exit(INTERRUPTED if result.status == "killed" else NOTHING_FINISHED)
    ctx.invoke(compare, name=name, home=home, by="rollouts")


@click.command()
@click.argument("name")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Default: in the sweep's folder."
)
@click.option(
    "--attach/--no-attach", default=True, show_default=True, help="Put it on the sweep's MLflow run."
)
@BY
@HOME
@URI
def report(name: str, output: Path | None, attach: bool, by: Axis, home: Path, uri: str | None) -> None:
    """Write one self-contained HTML page about sweep NAME and attach it to the sweep's MLflow run."""
    from trimtab.decide.compare.verdict import decide
    from trimtab.decide.report.page import attach_report, write_report
    from trimtab.sweepdir.folder import SweepDir

    store, sweep_id = store_of(home, name, uri)
    found = decide(store, [name], by=by, sweep_id=sweep_id)
    folder = SweepDir.of(home, name).path
    file = output or (folder if folder.is_dir() else Path()) / "report.html"
    write_report(store, found, name, folder, file, by, sweep_id)
    click.echo(f"wrote {file}")
    if attach:
        attach_report(store, store.sweep(name, sweep_id).run_id, file)


@click.command()
@click.argument("name")
@click.option(
    "--trial",
    type=click.IntRange(0),
    help="Number of a configuration; default: the best that is established.",
)
@click.option("--name", "model", help="Name of the registered model; default: the sweep's.")
@click.option("--alias", default="champion", show_default=True)
@click.option("--force", is_flag=True, help="Promote although it is not established; the record says so.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("promoted"),
    show_default=True,
    help="Where NAME.yaml is written.",
)
@HOME
@URI
def promote(
    name: str,
    trial: int | None,
    model: str | None,
    alias: str,
    force: bool,
    folder: Path,
    home: Path,
    uri: str | None,
) -> None:
    """Register the established best of sweep NAME as a model version and move the alias to it."""
    from trimtab.decide import promote as promotion

    store, sweep_id = store_of(home, name, uri)
    done = promotion.promote(
        store, name, trial=trial, name=model, alias=alias, force=force, folder=folder,
        home=home, sweep_id=sweep_id,
    )  # fmt: skip
    moved = done.moved
    before = f", before: version {moved.before}" if moved.before not in (None, moved.version) else ""
    already = " already" if moved.before == moved.version else ""
    forced = " (forced: not established)" if done.forced else ""
    click.echo(f"models:/{moved.model}@{moved.alias} is{already} version {moved.version}{before}{forced}")
    then = command(f"train {done.file}", home)
    click.echo(f"configuration {done.row.number} {done.row.label}; review {done.file}, then: {then}")


@click.command()
@click.argument("model")
@click.option("--alias", default="champion", show_default=True)
@HOME
@URI
def rollback(model: str, alias: str, home: Path, uri: str | None) -> None:
    """Move MODEL's alias back to the version that the present one replaced."""
    from trainables.strategies.wording import did_you_mean
    from trimtab.decide.registry import Registry
    from trimtab.errors import NotFoundError
    from trimtab.sweepdir.home import tracking_uri
    from trimtab.tracking.store import registered_models, sqlite_path

    where = tracking_uri(home, uri)
    file = sqlite_path(where)
    known = [] if file and not file.exists() else registered_models(where)
    if known is not None and model not in known:
        raise NotFoundError(
            f"no model named {model!r} in {where}; {did_you_mean(model, known)}models there: "
            f"{', '.join(known) or 'none'}"
        )
    moved = Registry(where).rollback(model, alias)
    click.echo(
        f"models:/{moved.model}@{moved.alias} is version {moved.version} again, before: {moved.before}"
    )


@click.command()
@click.argument("source", metavar="FILE|models:/NAME@ALIAS")
@SET
@HOME
@URI
@cluster_options
@click.pass_context
def train(
    ctx: click.Context,
    source: str,
    overrides: tuple[str, ...],
    home: Path,
    uri: str | None,
    address: str | None,
    capacity: Machine | None,
) -> None:
    """Train a promoted configuration at full size and register the result; run it again to resume."""
    import tempfile

    from trimtab import api
    from trimtab.decide.train import find_promoted
    from trimtab.sweepdir.home import tracking_uri

    with tempfile.TemporaryDirectory() as folder:
        promoted = find_promoted(source, tracking_uri(home, uri), Path(folder), overrides)
    done = api.train(promoted, home, address=address, capacity=capacity)
    if done.moved is None:
        click.echo("stopped; the same command resumes it", err=True)
        ctx.exit(INTERRUPTED)
    at = f", models:/{done.moved.model}@{done.moved.alias}" if done.moved.alias else ""
    click.echo(f"trained: {done.checkpoint}; registered as models:/{done.name}/{done.moved.version}{at}")
