"""`trimtab v0`: value models that read a policy's record. Each command imports what it needs on use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from trainables.value_models.config import EncoderConfig

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
RECORDS = click.argument("records", nargs=-1, required=True, type=FILE)
PROMPTS = click.option(
    "--prompts", required=True, type=FILE, help='JSON of prompt texts, {"dataset_id": text}.'
)
CACHE = click.option(
    "--cache",
    type=FOLDER,
    default=Path(".trimtab/embeddings"),
    show_default=True,
    help="Folder that caches the embedding of each prompt.",
)
ENCODER = click.option(
    "--encoder",
    default="minilm",
    show_default=True,
    help="minilm (ships with trimtab), none (text statistics only), a directory, or a Hugging Face id.",
)
LAYERS = click.option(
    "--layers",
    default="-2,-1",
    show_default=True,
    help="Hidden layers whose token means are used, or `pooled` for the encoder's own sentence embedding.",
)


@click.group()
def v0() -> None:
    """Fit, evaluate and use value models that predict pass rates from a policy's record (V0)."""


@v0.command()
@RECORDS
@PROMPTS
@click.option("--out", required=True, type=FOLDER, help="Folder to write the fitted head to.")
@click.option(
    "--head", default="gp", show_default=True, help="global, mean, knn, smoother, gp, adapter, tabpfn."
)
@click.option(
    "--calibration",
    type=click.Choice(["temperature", "isotonic", "none"]),
    default="temperature",
    show_default=True,
    help="Calibration method, fitted on all steps but the last.",
)
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Checkpoint for --head tabpfn; obtain it yourself."
)
@ENCODER
@LAYERS
@CACHE
def fit(
    records: tuple[Path, ...],
    prompts: Path,
    out: Path,
    head: str,
    calibration: Any,
    checkpoint: Path | None,
    encoder: str,
    layers: str,
    cache: Path,
) -> None:
    """Fit a head on RECORDS: files with one {dataset, id, model, step, score} row per logged score."""
    from trainables.value_models.commands import fit as fit_head

    settings = {} if checkpoint is None else {"checkpoint": str(checkpoint)}
    facts = fit_head(records, prompts, out, head, _encoder(encoder, layers), cache, calibration, settings)
    click.echo(
        f"fitted {head} on {facts['rows']} rows of {len(facts['policies'])} policies, "
        f"{facts['prompts']} prompts; wrote {out}"
    )


@v0.command(name="eval")
@RECORDS
@PROMPTS
@click.option(
    "--heads", default="global,mean,knn,gp", show_default=True, help="Heads to compare, comma-separated."
)
@click.option("--sizes", default="32,128,256,512", show_default=True, help="Context sizes, comma-separated.")
@click.option("--folds", type=click.IntRange(2), default=5, show_default=True, help="Number of prompt folds.")
@ENCODER
@LAYERS
@CACHE
def evaluate(
    records: tuple[Path, ...],
    prompts: Path,
    heads: str,
    sizes: str,
    folds: int,
    encoder: str,
    layers: str,
    cache: Path,
) -> None:
    """Evaluate heads on RECORDS, on prompts that were left out of the fit."""
    from trainables.value_models.commands import evaluate as judge
    from trainables.value_models.tables import as_text

    results = judge(
        records, prompts, heads.split(","), _whole("--sizes", sizes), _encoder(encoder, layers), cache, folds
    )
    click.echo(as_text(results))


@v0.command()
@click.argument("head", type=FOLDER)
@PROMPTS
@click.option("--context", required=True, type=FILE, help="Record of the policy: rows of one model and step.")
@click.option("--id", "ids", multiple=True, help="Key of a prompt to predict; repeatable. Default: all.")
@click.option("--out", type=FILE, help="Write JSON lines to this file instead of printing them.")
@CACHE
def predict(
    head: Path, prompts: Path, context: Path, ids: tuple[str, ...], out: Path | None, cache: Path
) -> None:
    """Print the fitted HEAD's prediction of P(r = 1) for prompts under a policy."""
    import json

    from trainables.value_models.commands import predict as ask
    from trainables.value_models.commands import write_lines

    lines = ask(head, context, prompts, ids, cache)
    if out is not None:
        write_lines(out, lines)
        click.echo(f"wrote {len(lines)} predictions to {out}")
        return
    for line in lines:
        click.echo(json.dumps(line))


@v0.command()
@click.argument("head", type=FOLDER)
@RECORDS
@PROMPTS
@click.option("--costs", required=True, help="Cost of one answer by each record's model, comma-separated.")
@click.option("--betas", default="0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1", show_default=True)
@click.option(
    "--out", type=FILE, help="Write the chosen models to this file, one JSON line per beta and prompt."
)
@CACHE
def route(
    head: Path,
    records: tuple[Path, ...],
    prompts: Path,
    costs: str,
    betas: str,
    out: Path | None,
    cache: Path,
) -> None:
    """Pick a model for each prompt that no record holds, and plot accuracy against cost over beta.

    Each of RECORDS is the record of one model. Beta 1 weighs accuracy only, beta 0 cost only.
    """
    from trainables.value_models.commands import route_files, write_lines
    from trainables.value_models.route import draw, pareto

    models, keys, points = route_files(
        head, records, prompts, _numbers("--costs", costs), _numbers("--betas", betas), cache
    )
    front = {point.beta for point in pareto(points)}
    click.echo("beta   predicted accuracy   cost      on the front   share of each model")
    for point in points:
        shares = ", ".join(f"{m} {(point.choice_Q == i).mean():.0%}" for i, m in enumerate(models))
        mark = "*" if point.beta in front else ""
        click.echo(f"{point.beta:<6g} {point.accuracy:<20.3f} {point.cost:<9.4g} {mark:<14} {shares}")
    click.echo(draw(points))
    if out is not None:
        chosen = [
            {"beta": p.beta, "key": key, "model": models[choice]}
            for p in points
            for key, choice in zip(keys, p.choice_Q, strict=True)
        ]
        write_lines(out, chosen)
        click.echo(f"wrote {len(chosen)} choices to {out}")


def _encoder(model: str, layers: str) -> EncoderConfig:
    from pydantic import ValidationError

    from trainables.value_models.config import EncoderConfig
    from trimtab.errors import SpecError

    try:
        chosen = () if layers == "pooled" else tuple(_whole("--layers", layers))
        return EncoderConfig(model=model, layers=chosen)
    except ValidationError as error:
        raise SpecError(f"encoder: {error.errors()[0]['msg']}") from error


def _whole(option: str, text: str) -> list[int]:
    from trimtab.errors import SpecError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"{option}: {text!r}; give integers separated by commas") from None


def _numbers(option: str, text: str) -> list[float]:
    from trimtab.errors import SpecError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"{option}: {text!r}; give numbers separated by commas") from None
