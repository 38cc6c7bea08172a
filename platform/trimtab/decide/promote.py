"""From a verdict to a model version under an alias, with a reviewable file that says why."""

from __future__ import annotations

import datetime
import getpass
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from trimtab._version import __version__
from trimtab.decide.compare.read import Store, TrackedRun
from trimtab.decide.compare.render import verdict_text
from trimtab.decide.compare.statistics import final_accuracy
from trimtab.decide.compare.table import Comparison, Row
from trimtab.decide.compare.verdict import Decision, decide
from trimtab.decide.promoted import INSIDE, Production, production_text
from trimtab.decide.registry import Moved, Registry
from trimtab.errors import NotFoundError, PromotionError, TrackingError
from trimtab.sweepdir.atomic import write_whole
from trimtab.sweepdir.home import DEFAULT, command
from trimtab.sweepspec.names import check_name
from trimtab.tracking.provenance import git_state
from trimtab.tracking.store import connect, transient_errors, unreachable


@dataclass(frozen=True)
class Promotion:
    """What was promoted, and the file that documents it."""

    moved: Moved
    row: Row
    file: Path
    forced: bool


def promote(
    store: Store,
    sweep: str,
    *,
    trial: int | None = None,
    name: str | None = None,
    alias: str = "champion",
    force: bool = False,
    folder: Path = Path("promoted"),
    home: Path = DEFAULT,
    sweep_id: str | None = None,
) -> Promotion:
    """Promote a configuration of a sweep: the best established one, or number `trial` of the search.

    After an error nothing is half registered.

    Raises:
        PromotionError: the configuration is not established against the reference and `force` is not set, or
            its checkpoint is gone.
        NotFoundError: there is no such sweep or configuration, or none that finished.
        RegistryError: the registry refused, or another promotion came first.
        TrackingError: the store does not answer.
    """
    model = check_name(name or sweep)
    found = decide(store, [sweep], sweep_id=sweep_id)
    row, judged = _choose(found, trial)
    established = found.confirmation is not None and judged.verdict == "better"
    if not established and not force:
        raise PromotionError(_refusal(sweep, row, judged, found, home))
    run = _representative(store, found.standing, judged)
    weights = _weights(run, sweep, home)
    text, file = {}, folder / f"{model}.yaml"

    def write(version: str) -> None:
        text["yaml"] = _document(
            model, version, alias, store, found, row, judged, run, forced=not established
        )
        text["yaml"] = _head(file, home) + text["yaml"]
        connect(store.uri).log_text(run.run_id, text["yaml"], f"model/{INSIDE}")
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, text["yaml"])

    def upload() -> str:
        client = connect(store.uri)
        client.log_artifacts(run.run_id, str(weights), "model")
        return f"{client.get_run(run.run_id).info.artifact_uri}/model"

    tags = {
        "trimtab.sweep": sweep,
        "trimtab.trial": str(row.number),
        "trimtab.label": row.label,
        "trimtab.seed": str(run.seed),
        "trimtab.verdict": verdict_text(judged),
        "trimtab.forced": str(not established).lower(),
        **_numbers(judged),
    }
    with _alone(home):
        moved = Registry(store.uri).promote(model, alias, run.run_id, upload, tags, write)
    return Promotion(moved, row, file, not established)


def _choose(found: Decision, trial: int | None) -> tuple[Row, Row]:
    """Return the configuration's row in the search, and the row that its verdict comes from."""
    candidates = [row for row in found.search.rows if row.verdict != "reference"]
    if trial is not None:
        for row in candidates:
            if row.number == trial:
                return row, found.confirmed(row) or row
        numbers = ", ".join(str(row.number) for row in candidates)
        raise NotFoundError(
            f"--trial: {found.search.sweep} has no configuration {trial}; choose from {numbers}"
        )
    pairs = [(row, found.confirmed(row) or row) for row in candidates]
    if found.confirmation:
        pairs = [(row, judged) for row, judged in pairs if judged is not row] or pairs
    pairs = [(row, judged) for row, judged in pairs if judged.difference or judged.final_mean is not None]
    if not pairs:
        raise NotFoundError(
            f"sweep {found.search.sweep!r} has no finished configuration to promote; resume it first"
        )
    return max(pairs, key=lambda pair: (pair[1].verdict == "better", _gain(pair[1])))


def _gain(row: Row) -> float:
    return row.difference.mean if row.difference else float("-inf")


def _refusal(sweep: str, row: Row, judged: Row, found: Decision, home: Path) -> str:
    against = found.standing.reference
    if found.confirmation is None:
        shown = command(f"confirm {sweep}", home)
        why = f"was only searched, not confirmed against {against}; confirm it: {shown}"
    elif judged is row:
        shown = command(f"confirm {sweep} --top N", home)
        why = f"is not among those that were confirmed; confirm more: {shown}"
    elif judged.verdict == "worse":
        why = f"is worse than {against}"
    else:
        shown = command(f"confirm {sweep} --seeds N", home)
        why = f"is {verdict_text(judged)} against {against}; confirm it with more seeds: {shown}"
    return f"configuration {row.number} {row.label} {why}, or promote it anyway with --force"


def _representative(store: Store, comparison: Comparison, row: Row) -> TrackedRun:
    """Return the run of median final accuracy, which is typical of the method; the best run is luck."""
    sweep = store.sweep(row.sweep)
    runs = [run for run in sweep.runs if run.trial == row.trial and run.seed in row.seeds]
    if not runs:
        raise PromotionError(
            f"configuration {row.number} {row.label} of {row.sweep} has no finished run, so no weights"
        )
    return sorted(runs, key=lambda run: final_accuracy(run.curve.accuracy_E))[len(runs) // 2]


def _weights(run: TrackedRun, sweep: str, home: Path) -> Path:
    """Return the folder of the run's weights in Hugging Face format."""
    folder = Path(run.checkpoint or "-") / "model"
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (folder / name).is_file()]
    if missing or not list(folder.glob("*.safetensors")):
        raise PromotionError(
            f"the checkpoint of {run.label} seed {run.seed} is missing: {folder} holds no "
            f"{missing[0] if missing else 'weights'}; it was deleted or lies on another machine: promote "
            f"there, or train it again: {command(f'confirm {sweep}', home)}"
        )
    return folder


def _numbers(row: Row) -> dict[str, str]:
    difference = row.difference
    numbers = {"accuracy": row.final_mean, "p": row.p_adjusted}
    if difference:
        numbers |= {"difference": difference.mean, "low": difference.low, "high": difference.high}
    return {f"trimtab.{name}": f"{value:.6g}" for name, value in numbers.items() if value is not None}


def _document(
    model: str,
    version: str,
    alias: str,
    store: Store,
    found: Decision,
    row: Row,
    judged: Row,
    run: TrackedRun,
    *,
    forced: bool,
) -> str:
    """Return the content of the promoted file. Its numbers are of the runs that the verdict comes from."""
    config = _artifact(store.uri, run.run_id, "config.json")
    seed = config.pop("seed")
    config["evaluation"].pop("split", None)
    parent = store.sweep(judged.sweep).run_id
    given = {"steps": config["steps"], "checkpoint_every": Production().checkpoint_every, "seed": seed}
    begin = {"name": model, "trial": config}
    end = {
        "provenance": {
            "model": f"models:/{model}/{version}",
            "alias": alias,
            "sweep": found.search.sweep,
            "trial": row.number,
            "label": row.label,
            "run": run.run_id,
            "seed": run.seed,
            "confirmation": found.confirmation.sweep if found.confirmation else None,
            "reference": found.standing.reference,
            "verdict": verdict_text(judged),
            "forced": forced,
            "split": found.standing.split,
            "seeds": list(judged.seeds),
            "final_accuracy": judged.final_mean,
            "difference": asdict(judged.difference) if judged.difference else None,
            "p_holm": judged.p_adjusted,
            "comparisons": found.standing.family,
            "compute_to_level_ratio": asdict(judged.ratio) if judged.ratio else None,
            "data": _artifact(store.uri, run.run_id, "data.json"),
            "git": _artifact(store.uri, parent, "git.json"),
            "project_git_at_promotion": git_state(Path.cwd()),
            "trimtab": __version__,
            "promoted_by": getpass.getuser(),
            "promoted_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    }
    written = [yaml.safe_dump(part, sort_keys=False, width=100) for part in (begin, end)]
    return production_text(config, given).join(written)


def _head(file: Path, home: Path) -> str:
    """Return the comment above a promoted file, which says what it is for."""
    return (
        "# Written by trimtab promote. Review it, scale `production`, then:\n"
        f"#   {command(f'train {shlex.quote(str(file))}', home)}\n"
        "# `trial` is the configuration whose runs the verdict comes from. Without its `#`, an option of\n"
        "# `production` overrides it; the value beside the option is the trial's.\n"
    )


def _artifact(uri: str, run_id: str, name: str) -> Any:
    """Read a JSON artifact of a run; None if the run has none of this name."""
    client = connect(uri)
    if name not in {file.path for file in client.list_artifacts(run_id)}:
        return None
    try:
        return json.loads(Path(client.download_artifacts(run_id, name)).read_text(encoding="utf-8"))
    except transient_errors() as error:
        raise TrackingError(f"{name} of run {run_id}: {unreachable(uri, error)}") from error


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Allow one promotion at a time in a home; the registry tells apart those of different homes."""
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "promote.lock"):
        yield
