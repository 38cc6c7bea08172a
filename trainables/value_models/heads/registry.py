"""Heads by name, and fitted heads on disk.

Layout of a saved head::

    <folder>/head.json      kind, settings, encoder, calibration, what it was fitted on
    <folder>/arrays.npz     its arrays, without pickle
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from trainables.errors import ModelError, SpecError
from trainables.value_models.calibration import Calibration
from trainables.value_models.config import EncoderConfig
from trainables.value_models.heads.base import Head
from trainables.value_models.heads.gp import GaussianProcess
from trainables.value_models.heads.scaling import Layout
from trainables.value_models.heads.simple import ContextMean, GlobalRate, Neighbours, Smoother


def _tabpfn(layout: Layout, **settings: Any) -> Head:
    from trainables.value_models.heads.tabpfn import TabPFN

    return TabPFN(layout, **settings)


def _adapter(layout: Layout, **settings: Any) -> Head:
    from trainables.value_models.heads.incontext import QueryAdapterHead

    return QueryAdapterHead(layout, **settings)


HEADS: dict[str, Callable[..., Head]] = {
    "global": lambda layout: GlobalRate(),
    "mean": lambda layout: ContextMean(),
    "knn": Neighbours,
    "smoother": Smoother,
    "gp": GaussianProcess,
    "adapter": _adapter,
    "tabpfn": _tabpfn,
}


def make_head(kind: str, layout: Layout, **settings: Any) -> Head:
    """Make a head that is not fitted.

    Raises:
        SpecError: the kind, or one of its settings, is unknown.
    """
    if kind not in HEADS:
        raise SpecError(f"head: {kind!r} is unknown; choose from {', '.join(HEADS)}")
    try:
        return HEADS[kind](layout, **settings)
    except TypeError as error:
        raise SpecError(f"head {kind!r}: {error}") from error


@dataclass
class Saved:
    """A fitted head and what is needed to use it."""

    head: Head
    layout: Layout
    encoder: EncoderConfig
    calibration: Calibration = field(default_factory=Calibration)
    facts: dict[str, Any] = field(default_factory=dict)
    """What it was fitted on; for readers of the file only."""


def save_head(folder: Path, saved: Saved) -> None:
    """Write a head to a folder, which is created; a head that lies there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    settings, arrays = saved.head.state()
    calibration = saved.calibration
    if calibration.x_K is not None and calibration.y_K is not None:
        arrays |= {"calibration.x_K": calibration.x_K, "calibration.y_K": calibration.y_K}
    about = {
        "kind": saved.head.kind,
        "settings": settings,
        "blocks": saved.layout.blocks,
        "encoder": saved.encoder.model_dump(mode="json"),
        "calibration": {"method": calibration.method, "temperature": calibration.temperature},
        "facts": saved.facts,
    }
    with (folder / "arrays.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    (folder / "head.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def load_head(folder: Path) -> Saved:
    """Read a head that `save_head` wrote.

    Raises:
        ModelError: the folder holds no head, or a broken one.
    """
    try:
        about = json.loads((folder / "head.json").read_text(encoding="utf-8"))
        with np.load(folder / "arrays.npz", allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        encoder = EncoderConfig(**about["encoder"])
        layout = Layout(tuple(about["blocks"]), encoder.statistics)
        head = make_head(about["kind"], layout)
        calibration = Calibration(**about["calibration"])
        calibration.x_K, calibration.y_K = (
            arrays.pop("calibration.x_K", None),
            arrays.pop("calibration.y_K", None),
        )
        head.load(about["settings"], arrays)
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder}: holds no fitted head ({Path(str(error.filename)).name} is missing); fit one into it"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ModelError(f"{folder}: holds a head that cannot be read ({error}); fit it again") from error
    return Saved(head, layout, encoder, calibration, about["facts"])
