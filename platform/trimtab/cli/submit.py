"""The `submit` and `logs` commands, and what `stop` and `status` do with an --address."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trimtab.cli.options import Size, set_option
from trimtab.planning.machine import GB, Machine

if TYPE_CHECKING:
    from trimtab.remote.jobs import Job, Jobs

ADDRESS = click.option(
    "--address",
    help="Ray cluster to run on: `auto`, or HOST:PORT of its head. `home` must be on storage that its nodes "
    "share. Default: a Ray of the sweep's own on this machine.",
)
CAPACITY = (
    click.option(
        "--cpus", type=Size(), help="CPU cores that the cluster may grow to; default: those it has."
    ),
    click.option("--gpus", type=click.IntRange(0), default=0, help="GPUs that it may grow to; needs --cpus."),
    click.option("--memory-gb", type=Size(), help="Memory that it may grow to; needs --cpus."),
)
JOBS = click.option("--address", required=True, help="The cluster's job API, such as http://127.0.0.1:8265.")
CLUSTER = click.option("--address", help="The job API of the cluster that NAME was submitted to.")


def _capacity(command: Callable[..., None]) -> Callable[..., None]:
    """Add --cpus, --gpus and --memory-gb, passed to the command as one `capacity` (a Machine, or None)."""

    @functools.wraps(command)
    def wrapped(*args: Any, cpus: float | None, gpus: int, memory_gb: float | None, **options: Any) -> None:
        if cpus is not None and "address" in options and options["address"] is None:
            raise click.UsageError(
                "--cpus says what a cluster may grow to; give its --address too, or leave --cpus out"
            )
        if cpus is None and (gpus or memory_gb):
            raise click.UsageError("--gpus and --memory-gb say what a cluster may grow to; give --cpus too")
        capacity = None if cpus is None else Machine(cpus, gpus, int((memory_gb or 0) * GB))
        command(*args, capacity=capacity, **options)

    for option in CAPACITY:
        wrapped = option(wrapped)
    return wrapped


def cluster_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options about the cluster to a command that runs a sweep."""
    return ADDRESS(_capacity(command))


@click.command()
@click.argument("spec")
@set_option("spec", "trial.learner.lr=1e-4")
@click.option("--name", help="Name of the sweep, and of its job; default: the spec's name.")
@JOBS
@click.option("--image", metavar="installed|REF", help="What it runs in: the nodes' own image, or another.")
@click.option(
    "--pip", type=click.Path(path_type=Path), help="Requirements file that the nodes install instead."
)
@click.option("--working-dir", type=click.Path(path_type=Path), help="Folder with your own code, to be sent.")
@click.option("--working-dir-limit-mb", "limit_mb", type=Size(), default=20.0, show_default=True)
@click.option(
    "--secret", "secrets", multiple=True, metavar="NAME", help="A variable that the cluster must have set."
)
@click.option("--env", "variables", multiple=True, metavar="KEY=VALUE", help="A plain variable of the job.")
@click.option("--resume", is_flag=True, help="Continue the sweep of this name where its last job ended.")
@click.option(
    "--extend", type=click.IntRange(1), metavar="N", help="Search N more configurations in that sweep."
)
@click.option("--dry-run", is_flag=True, help="Check, print everything that would be sent, and send nothing.")
@click.option(
    "--follow",
    is_flag=True,
    help="Print what the sweep prints until it ends; Ctrl-C does not stop it.",
)
@_capacity
@click.pass_context
def submit(
    ctx: click.Context,
    spec: str,
    overrides: tuple[str, ...],
    name: str | None,
    address: str,
    image: str | None,
    pip: Path | None,
    working_dir: Path | None,
    limit_mb: float,
    secrets: tuple[str, ...],
    variables: tuple[str, ...],
    resume: bool,
    extend: int | None,
    dry_run: bool,
    follow: bool,
    capacity: Machine | None,
) -> None:
    """Run the sweep in SPEC as a job of a Ray cluster. Nothing is sent unless all of it can run there."""
    from trimtab.planning.placement import plan_on
    from trimtab.remote.jobs import Jobs
    from trimtab.remote.submit import Request, prepare, render, send
    from trimtab.sweepspec.load import load_spec

    request = Request(
        spec=load_spec(spec, overrides),
        name=name,
        image=image,
        pip=pip,
        working_dir=working_dir,
        limit_mb=limit_mb,
        secrets=secrets,
        variables=dict(_pair(variable) for variable in variables),
        resume=resume,
        extend=extend,
        capacity=capacity,
    )
    submission = prepare(request)
    jobs = Jobs(address)
    cluster = jobs.cluster()
    plan = plan_on(request.spec, cluster, capacity)
    if dry_run:
        click.echo(render(submission, plan, cluster), nl=False)
        return
    sent = send(submission, jobs, resume=resume)
    click.echo(f"{submission.id}: {'submitted' if sent else 'already running, attached'} at {address}")
    if follow:
        ctx.exit(_follow(jobs, submission.name))
    click.echo(f"follow it: trimtab logs {submission.name} --address {address} --follow")


@click.command()
@click.argument("name")
@JOBS
@click.option("--follow", is_flag=True, help="Print until the sweep ends; Ctrl-C does not stop it.")
@click.pass_context
def logs(ctx: click.Context, name: str, address: str, follow: bool) -> None:
    """Print what the submitted sweep NAME has printed."""
    from trimtab.remote.jobs import Jobs

    jobs = Jobs(address)
    if follow:
        jobs.get(name)
        ctx.exit(_follow(jobs, name))
    click.echo(jobs.logs(name), nl=False)
    _explain(jobs.get(name))


def stop_job(name: str, address: str) -> None:
    """Interrupt a submitted sweep."""
    from trimtab.remote.jobs import Jobs

    Jobs(address).stop(name)
    click.echo(f"asked sweep {name} at {address} to stop; finished trials stay in MLflow")


def job_status(name: str, address: str) -> None:
    """Print one line about a submitted sweep's job."""
    from trimtab.remote.jobs import Jobs

    job = Jobs(address).get(name)
    code = "" if job.exit_code is None else f" (exit code {job.exit_code})"
    click.echo(f"{job.id}: {job.status.lower()}{code} at {address}. {job.message}".rstrip())
    _explain(job)


def _explain(job: Job) -> None:
    if job.fix:
        click.echo(f"Fix: {job.fix}", err=True)


def _follow(jobs: Jobs, name: str) -> int:
    """Print the driver's output until it ends. Return its exit code, or 1 if Ray does not know it."""

    import asyncio

    async def lines() -> None:
        async for text in jobs.follow(name):
            click.echo(text, nl=False)

    asyncio.run(lines())
    job = jobs.get(name)
    if job.status == "SUCCEEDED":
        return 0
    click.echo(f"{job.id}: {job.status.lower()}. {job.message}".rstrip(), err=True)
    _explain(job)
    return job.exit_code or 1


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise click.BadParameter(f"{text!r} has no '='; write KEY=VALUE", param_hint="--env")
    return key, value
