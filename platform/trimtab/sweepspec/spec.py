"""What a user writes to start a sweep: one model, checked when it is made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import yaml
from pydantic import (
    Field,
    SerializationInfo,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from trainables.config import Strict
from trainables.trial import TrialConfig, TrialSettings
from trimtab.sweepspec.check import check_sampler, check_searched
from trimtab.sweepspec.messages import spec_error
from trimtab.sweepspec.names import check_name
from trimtab.sweepspec.ranges import Range, Value
from trimtab.sweepspec.strategy import default_label, merge

RawStrategy = str | dict[str, Any]
"""As in `TrialConfig.strategy`: a preset's name, a preset with parameters, axes, or an import path."""

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]

Purpose: TypeAlias = Literal["search", "confirm", "train"]

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.")
STORAGE = re.compile(r"(postgresql|sqlite)(\+\w+)?://.")
"""Databases that the studies are tested with."""


class Searched(Strict):
    """A strategy, and which of its parameters are searched."""

    strategy: RawStrategy
    search: Annotated[dict[str, Range], Field(default_factory=dict)]
    """Parameter -> range. A parameter of a preset by its name; one of spelled-out axes by a dotted path such
    as `budget.k_max`."""
    defaults_first: bool = True
    """Run the strategy's own values of the searched parameters before searching, where the ranges hold
    them."""
    enqueue: tuple[dict[str, Value], ...] = ()
    """Configurations to run before searching, after the strategy's own: each gives searched parameters a
    value; those that it leaves out are drawn."""

    @model_validator(mode="before")
    @classmethod
    def _keyed(cls, raw: Any) -> Any:
        if isinstance(raw, str):
            raise ValueError(f"strategy: {raw!r} stands alone; write {{strategy: {raw}}}")
        return raw


class Reference(Searched):
    """The configuration that everything is compared with. It runs first, at the same compute.

    With `search` its own parameters are searched as well, by default in the same number of trials as the
    candidates': the best of N is then compared with the best of N.
    """

    label: Label | None = None
    """Name in tables and tags; default: the preset's name."""
    trials: Annotated[int, Field(ge=1)] | None = None
    """Number of configurations of the reference, its own values included; default: `search.trials` if it has
    a `search`, else 1."""

    @model_validator(mode="after")
    def _own_values_first(self) -> Reference:
        if not self.defaults_first:
            raise ValueError(
                "defaults_first: false would leave nothing to compare with; the reference's own values "
                "always run first: remove it"
            )
        return self


class Candidate(Searched):
    """One contender."""

    label: Label | None = None
    """Prefix of its parameters in the study, and its name in tables; default: the preset's name."""


class Asha(Strict):
    """Successive halving (ASHA, arXiv 1810.05934): only the best continue past a rung."""

    type: Literal["asha"] = "asha"
    first_rung: Annotated[int, Field(ge=1)]
    """Rollouts of a trial (all its seeds, in the order they run) before it can be stopped."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """Keeps the top 1/reduction_factor at each rung; rungs are this factor apart."""


class Median(Strict):
    """Stop a configuration whose best score so far is below the median of finished ones at equal compute."""

    type: Literal["median"]
    first_rung: Annotated[int, Field(ge=1)]
    """Rollouts of a trial (all its seeds, in the order they run) before it can be stopped."""
    min_trials: Annotated[int, Field(ge=1)] = 3
    """No configuration is stopped before this number has finished."""


EarlyStopping: TypeAlias = Annotated[Asha | Median, Field(discriminator="type")]


class SearchConfig(Strict):
    """How candidates are drawn."""

    trials: Annotated[int, Field(ge=1)] = 5
    """Number of configurations of the candidates; each runs all seeds. One that is proposed twice runs under
    fresh seeds the second time."""
    sampler: Literal["tpe", "gp", "qmc", "random", "grid"] = "tpe"
    """`tpe`: multivariate, branch by branch. `gp`, `qmc`: one candidate, fixed bounds. `grid`: each point."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the sampler; the run seeds are `seeds`."""
    early_stopping: EarlyStopping | None = None


class SlotsConfig(Strict):
    """What one slot (a learner group and its engines) may take of the machine."""

    reuse: Literal["warm", "cold"] = "warm"
    """`warm`: a slot serves one trial after another. `cold`: every trial gets new processes. `slots: cold`
    for short."""
    count: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Number of slots at once; `auto`: as many as fit, at most one for each configuration."""
    learner_cpus: Annotated[float, Field(gt=0)] = 0.45
    """CPU cores of each learner worker."""
    engine_cpus: Annotated[float, Field(gt=0)] = 0.45
    """CPU cores of each rollout engine. One worker, one engine and the trial's 0.1 make one core."""
    learner_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each learner worker; fractions share a GPU."""
    engine_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each engine, in all (tensor parallelism over n GPUs needs n)."""
    learner_resource: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")] | None = None
    """On a cluster: learners run only on nodes that offer this custom Ray resource."""
    engine_resource: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")] | None = None
    """The same for engines: learners and engines on nodes of their own."""
    memory_gb: Annotated[float, Field(gt=0)] = 3.0
    """Host memory of the whole slot, in GB (1e9 bytes)."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, raw: Any) -> Any:
        return {"reuse": raw} if raw in ("warm", "cold") else raw

    @model_validator(mode="after")
    def _whole_gpus(self) -> SlotsConfig:
        for field in ("learner_gpus", "engine_gpus"):
            value: float = getattr(self, field)
            if value > 1 and value != int(value):
                raise ValueError(
                    f"{field}: {value} is not a whole number of GPUs; only fractions below 1 share one"
                )
        return self


class TrackingConfig(Strict):
    """Where results are recorded."""

    uri: str | None = None
    """MLflow tracking URI; default: SQLite under `home`."""
    experiment: Annotated[str, Field(min_length=1)] = "trimtab"
    """MLflow experiment that holds the runs."""


class Work(Protocol):
    """What a session runs: the part of a sweep's spec that a single training run has as well.

    The plan, the slots, the tracker and the display read it. `SweepSpec` is one.
    """

    @property
    def name(self) -> str: ...
    @property
    def slots(self) -> SlotsConfig: ...
    @property
    def tracking(self) -> TrackingConfig: ...
    @property
    def seeds(self) -> tuple[int, ...]:
        """Run seeds of every configuration."""

    @property
    def trials(self) -> int:
        """All configurations."""

    @property
    def reference_trials(self) -> int:
        """Configurations of the reference, its own values included."""

    @property
    def reference_label(self) -> str: ...
    @property
    def budget(self) -> int:
        """Rollouts of one run (one configuration, one seed)."""

    @property
    def purpose(self) -> Purpose: ...
    @property
    def confirms(self) -> str | None:
        """Name of the sweep that is confirmed."""

    def reference_config(self) -> TrialConfig:
        """Return the reference's resolved configuration; all others share its model, slot and budget."""

    def configs(self) -> list[TrialConfig]:
        """Return the configurations as they are written, before anything is searched; the reference first."""

    def text(self) -> str:
        """Return the document that the tracking store keeps, as YAML."""


class SweepSpec(Strict):
    """A sweep: one task and budget, a reference, candidates, seeds."""

    name: str
    """Family of the sweep's name: the first sweep is `<name>`, later ones `<name>-2`, `<name>-3`, ..."""
    trial: TrialSettings = TrialSettings()
    """Shared by all configurations, so that only the baseline axes differ."""
    reference: Reference
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2)
    """Run seeds of every configuration. Fewer than three are not enough evidence for a comparison."""
    search: SearchConfig = SearchConfig()
    slots: SlotsConfig = SlotsConfig()
    tracking: TrackingConfig = TrackingConfig()
    storage: str | None = None
    """Optuna storage URL (PostgreSQL, or SQLite on one machine); default: a journal file in the sweep's
    folder."""
    home: Path = Path(".trimtab")
    """Folder of everything that sweeps leave behind."""
    confirms: str | None = None
    """Name of the sweep whose best configurations this one retrains; `trimtab confirm` writes it."""

    @field_serializer("trial")
    def _as_written(self, trial: TrialSettings, info: SerializationInfo) -> dict[str, Any]:
        """Only what the user set: a stored spec stays as short as the file it comes from."""
        return trial.model_dump(mode=info.mode, exclude_unset=True)

    @field_validator("trial", mode="before")
    @classmethod
    def _no_strategy(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping) and "strategy" in raw:
            raise ValueError(
                "strategy: strategies differ between configurations; move it to reference.strategy or "
                "candidates[].strategy"
            )
        return raw

    @model_validator(mode="after")
    def _runs(self) -> SweepSpec:
        check_name(self.name)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} names a seed twice; give distinct seeds")
        _check_labels([candidate_label(candidate) for candidate in self.candidates])
        check_urls(self.storage, self.tracking.uri)
        self.reference_config()
        _check_reference_label(self.reference_label, self.candidates)
        if self.trial.evaluation.split == "test" and self.confirms is None:
            raise ValueError(
                "trial.evaluation.split: test would let the search see the prompts of the verdict; remove it "
                "(trimtab confirm evaluates on them)"
            )
        for searched in (self.reference, *self.candidates):
            check_searched(self, searched, self._where(searched))
        check_sampler(self)
        rung = self.search.early_stopping.first_rung if self.search.early_stopping else 0
        budget = self.budget * len(self.seeds)
        if rung >= budget:
            raise ValueError(
                f"search.early_stopping.first_rung: {rung} rollouts, but a whole trial has {budget} (over "
                f"{len(self.seeds)} seeds); lower it or remove early_stopping"
            )
        return self

    @property
    def reference_label(self) -> str:
        """The reference's name in the study and in tables."""
        return self.reference.label or default_label(self.reference.strategy, "reference")

    @property
    def budget(self) -> int:
        """Rollouts of one run (one configuration, one seed)."""
        return self.trial.budget

    def reference_config(self) -> TrialConfig:
        """Return the reference's configuration at its own values."""
        return self.config_of(self.reference, {})

    @property
    def reference_trials(self) -> int:
        """Configurations of the reference, its own values included."""
        return self.reference.trials or (self.search.trials if self.reference.search else 1)

    @property
    def trials(self) -> int:
        """All configurations of the sweep."""
        return self.reference_trials + self.search.trials

    @property
    def rung(self) -> int:
        """Rollouts of one run between two evaluations: trials are compared at multiples of it."""
        return self.trial.evaluation.every * self.trial.rollouts_per_step

    @property
    def purpose(self) -> Purpose:
        return "confirm" if self.confirms else "search"

    def configs(self) -> list[TrialConfig]:
        """Return the configurations as they are written, before anything is searched; the reference first."""
        return [self.reference_config(), *(self.config_of(candidate, {}) for candidate in self.candidates)]

    def text(self) -> str:
        """Return the spec as YAML that `load_spec` reads back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json", by_alias=True), sort_keys=False, width=100)

    def label_of(self, searched: Searched) -> str:
        """Return the reference's or a candidate's name in the study and in tables."""
        return self.reference_label if searched is self.reference else candidate_label(searched)

    def config_of(self, searched: Searched, values: Mapping[str, Value]) -> TrialConfig:
        """Return the reference's or a candidate's configuration at these values of its parameters.

        Raises:
            SpecError: it cannot run; with the field as the user wrote it.
        """
        strategy = merge(searched.strategy, values)
        try:
            return self.trial.with_strategy(strategy)
        except ValidationError as error:
            raw, where = {"strategy": strategy}, f"{self._where(searched)}.strategy"
            raise spec_error(error, TrialConfig, raw, prefix="trial", renamed={"strategy": where}) from None

    def _where(self, searched: Searched) -> str:
        if searched is self.reference:
            return "reference"
        return f"candidates.{next(i for i, c in enumerate(self.candidates) if c is searched)}"


def candidate_label(candidate: Searched) -> str:
    """Return a candidate's name in the study and in tables."""
    label: str | None = getattr(candidate, "label", None)
    return label or default_label(candidate.strategy, "candidate")


def _check_labels(labels: list[str]) -> None:
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(
                f"candidates: the label {label!r} occurs {labels.count(label)} times; give each candidate a "
                "label: of its own"
            )


def check_urls(storage: str | None, tracking: str | None) -> None:
    """Refuse what is not a URL, with a ValueError as pydantic's validators raise it."""
    if storage is not None and not STORAGE.match(storage):
        raise ValueError(
            f"storage: {_without_password(storage)!r} is not a database that can hold a study; write "
            "postgresql+psycopg://user@host/database (or sqlite:////path/study.db on one machine), or leave "
            "it out for a journal file in the sweep's folder"
        )
    if tracking is not None and tracking != "databricks" and not URL.match(tracking):
        raise ValueError(
            f"tracking.uri: {tracking!r} is not a URL; write http://host:5000 or sqlite:////path/mlflow.db, "
            "or leave it out for SQLite under home"
        )


def _without_password(url: str) -> str:
    return re.sub(r"(//[^/@:]*):[^/@]*@", r"\1:***@", url)


def _check_reference_label(label: str, candidates: tuple[Candidate, ...]) -> None:
    for number, candidate in enumerate(candidates):
        if candidate_label(candidate) == label:
            raise ValueError(
                f"candidates.{number}.label: {label!r} is the reference's name too; "
                "give the candidate a label: of its own"
            )
