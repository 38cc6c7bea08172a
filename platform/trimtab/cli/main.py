"""The `trimtab` command. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trimtab._version import __version__
from trimtab.cli.decide import compare, confirm, promote, report, rollback, track, train
from trimtab.cli.options import HOME, Size, set_option
from trimtab.cli.outcome import INTERRUPTED, USER_ERROR, report_end
from trimtab.cli.submit import CLUSTER, cluster_options, job_status, logs, stop_job, submit
from trimtab.cli.v0 import v0
from trimtab.errors import TrimtabError

if TYPE_CHECKING:
    from trimtab.planning.machine import Machine

SET = set_option("spec", "trial.learner.lr=1e-4")


WORK = {
    "Make a sweep": ("init", "plan", "doctor"),
    "Run it": ("sweep", "submit", "status", "logs", "ui", "stop", "resume", "extend"),
    "Judge it": ("compare", "confirm", "report", "track"),
    "Ship it": ("promote", "train", "rollback"),
    "Value models": ("v0",),
}
"""The commands in the order of work."""


class _Group(click.Group):
    """Errors made on purpose are a message and exit code 2; a traceback means a bug."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of work."""
        return [name for names in WORK.values() for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each part of the work."""
        width = max(len(name) for name in self.commands)
        for title, names in WORK.items():
            room = formatter.width - width - 6
            rows = [(name.ljust(width), self.commands[name].get_short_help_str(room)) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TrimtabError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(USER_ERROR)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            where = f"{error.filename} could not be written: " if error.filename else ""
            click.echo(
                f"Error: {where}the disk is full; free space, or set home to a larger disk. What was written "
                "before stays, and trimtab resume continues a sweep",
                err=True,
            )
            ctx.exit(USER_ERROR)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="trimtab")
def main() -> None:
    """Find the baseline that steers reinforcement learning best for each rollout spent."""


@main.command()
@click.argument("spec")
@SET
@click.option("--name", help="Name of this sweep; default: the spec's name, numbered if it is taken.")
@cluster_options
@click.option("--confirm", is_flag=True, help="Then retrain the best under fresh seeds.")
@click.pass_context
def sweep(
    ctx: click.Context,
    spec: str,
    overrides: tuple[str, ...],
    name: str | None,
    address: str | None,
    capacity: Machine | None,
    confirm: bool,
) -> None:
    """Run the sweep in SPEC, a YAML file or a shipped space such as `quickstart`."""
    from trimtab import api

    report_end(
        ctx,
        api.sweep(spec, name=name, overrides=overrides, address=address, capacity=capacity, confirm=confirm),
    )


@main.command()
@click.argument("name")
@HOME
@cluster_options
@click.pass_context
def resume(ctx: click.Context, name: str, home: Path, address: str | None, capacity: Machine | None) -> None:
    """Resume sweep NAME where it was stopped or killed; trials that ended stay as they are."""
    from trimtab import api

    report_end(ctx, api.resume(name, home, address=address, capacity=capacity))


@main.command()
@click.argument("name")
@click.option("--trials", type=click.IntRange(1), required=True, help="Further configurations to search.")
@HOME
@cluster_options
@click.pass_context
def extend(
    ctx: click.Context, name: str, trials: int, home: Path, address: str | None, capacity: Machine | None
) -> None:
    """Search further configurations in sweep NAME, with what it has found so far."""
    from trimtab import api

    report_end(ctx, api.extend(name, trials, home, address=address, capacity=capacity))


@main.command()
@click.argument("name")
@HOME
@CLUSTER
@click.option("--json", "as_json", is_flag=True, help="Print the state as JSON.")
def status(name: str, home: Path, address: str | None, as_json: bool) -> None:
    """Print how far sweep NAME is, and why trials failed. Starts nothing and needs no tracking store.

    With --address: the state of the job that NAME was submitted as; its trials with --home where the
    cluster's storage is mounted.
    """
    if address:
        job_status(name, address)
        return
    from dataclasses import asdict

    from rich.console import Console

    from trimtab.watch.status import read_status, render

    found = read_status(home, name)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    else:
        console = Console()
        (console if console.is_terminal else Console(width=140)).print(render(found))


@main.command()
@click.argument("spec")
@SET
@click.option("--nodes", type=click.IntRange(1), default=1, show_default=True, help="Nodes, all alike.")
@click.option("--cpus", type=Size(), help="CPU cores of a node; default: this machine's.")
@click.option("--gpus", type=click.IntRange(0), help="GPUs of a node; default: this machine's.")
@click.option("--memory-gb", type=Size(), help="Memory of a node, in GB; default: this machine's.")
@click.option("--gpu-memory-gb", type=Size(), help="Memory of one GPU, in GB; default: this machine's.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(
    spec: str,
    overrides: tuple[str, ...],
    nodes: int,
    cpus: float | None,
    gpus: int | None,
    memory_gb: float | None,
    gpu_memory_gb: float | None,
    as_json: bool,
) -> None:
    """Print what SPEC would run, what it takes and where it goes; start nothing."""
    from dataclasses import replace

    from rich.console import Console

    from trimtab.planning.duration import with_duration
    from trimtab.planning.machine import GB, Machine, this_machine
    from trimtab.planning.placement import plan_here
    from trimtab.planning.plan import render, summary
    from trimtab.sweepspec.load import load_spec

    loaded = load_spec(spec, overrides)
    here = this_machine()
    machine = Machine(
        cpus=here.cpus if cpus is None else cpus,
        gpus=here.gpus if gpus is None else gpus,
        memory_bytes=here.memory_bytes if memory_gb is None else int(memory_gb * GB),
        gpu_memory_bytes=here.gpu_memory_bytes if gpu_memory_gb is None else int(gpu_memory_gb * GB),
    )
    planned = plan_here(loaded, machine, nodes)
    if machine == here and nodes == 1:
        planned = with_duration(planned, loaded)
    else:
        planned = replace(planned, duration="not known: sweeps were timed on this machine alone")
    if as_json:
        click.echo(json.dumps(summary(planned), indent=2))
    else:
        Console().print(render(planned))


@main.command()
@HOME
@click.option("--uri", help="SQLite or database URI of the tracking store; default: the one under --home.")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.pass_context
def ui(ctx: click.Context, home: Path, uri: str | None, port: int) -> None:
    """Serve the MLflow UI of the tracking store on this machine's loopback; Ctrl-C ends it."""
    from trimtab.sweepdir.home import tracking_uri
    from trimtab.watch.ui import serve

    ctx.exit(serve(tracking_uri(home, uri), home, port))


@main.command()
@click.argument("name")
@HOME
@CLUSTER
def stop(name: str, home: Path, address: str | None) -> None:
    """Stop the running sweep NAME, as Ctrl-C in its terminal would."""
    if address:
        stop_job(name, address)
        return
    from trimtab.sweepdir import driver
    from trimtab.sweepdir.folder import SweepDir

    pid = driver.stop(SweepDir.existing(home, name).path)
    click.echo(f"asked process {pid} to stop sweep {name}; finished trials stay in MLflow")


@main.command()
@HOME
@click.option("--uri", help="MLflow tracking URI to check; default: SQLite under --home.")
@click.pass_context
def doctor(ctx: click.Context, home: Path, uri: str | None) -> None:
    """Check versions, GPUs, vLLM, Ray, MLflow, memory and disk; exit with 1 if something is red."""
    from trimtab.planning.doctor import diagnose
    from trimtab.sweepdir.home import tracking_uri

    colours = {"ok": "green", "warn": "yellow", "red": "red"}
    checks = diagnose(home, tracking_uri(home, uri))
    for check in checks:
        state = click.style(f"{check.state:4}", fg=colours[check.state])
        fix = f"  -> {check.fix}" if check.fix else ""
        click.echo(f"{state}  {check.name:16}  {check.text}{fix}")
    ctx.exit(1 if any(check.state == "red" for check in checks) else 0)


@main.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
def init(path: Path) -> None:
    """Write a commented spec to PATH that runs as it is."""
    from trimtab.sweepspec.template import write_template

    write_template(path)
    click.echo(f"wrote {path}; next: trimtab plan {path}")


for extra in (v0, submit, logs, compare, confirm, report, promote, rollback, train, track):
    main.add_command(extra)
