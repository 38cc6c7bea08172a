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

from trainables.config import LossConfig, Strict
from trainables.trial import TrialConfig, TrialSettings
from trimtab.sweepspec.messages import spec_error
from trimtab.sweepspec.names import check_name
from trimtab.sweepspec.quotas import check_quotas, different, quota_notes, quotas, repeats
from trimtab.sweepspec.sections import ConfirmConfig, SearchConfig, SlotsConfig, TrackingConfig
from trimtab.sweepspec.space.check import Space, check_sampler, check_searched, check_shared
from trimtab.sweepspec.space.ranges import Range, Value
from trimtab.sweepspec.space.settings import (
    is_setting,
    nested,
    setting_values,
    with_all_parts,
    with_settings,
)
from trimtab.sweepspec.space.strategy import default_label, merge, parameters

RawStrategy = str | dict[str, Any]
"""As in `TrialConfig.strategy`: a preset's name, a preset with parameters, axes, or an import path."""

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]

Purpose: TypeAlias = Literal["search", "confirm", "train"]

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.")
STORAGE = re.compile(r"(postgresql|sqlite)(\+\w+)?://.")
"""Databases that the studies are tested with."""


class Searched(Strict):
    """A strategy, and what is searched of it and of the trial around it."""

    strategy: RawStrategy
    settings: dict[str, Value] = Field(default_factory=dict)
    """Settings of the trial that this configuration has to itself, such as `learner.lr`; all others are
    `trial`'s. The names are those that may be searched."""
    search: Annotated[dict[str, Range], Field(default_factory=dict)]
    """Parameter or setting -> range. A parameter of a preset by its name; one of spelled-out axes by a dotted
    path such as `budget.k_max`; a setting of the trial by its path under `trial`, such as `learner.lr`."""
    defaults_first: bool = True
    """Run the strategy's own values of the searched parameters before searching, where the ranges hold
    them."""
    enqueue: tuple[dict[str, Value], ...] = ()
    """Configurations to run before searching, after the strategy's own: each gives searched parameters a
    value; those that it leaves out are drawn."""
    trials: Annotated[int, Field(ge=1)] | None = None
    """Number of its trials, its own values included. Default of a candidate: 1 if nothing of it is searched,
    else `search.trials_each` or its share of `search.trials`; of the reference: as many as the candidate that
    gets most, or 1. More than there are configurations: they run again under fresh seeds."""

    @model_validator(mode="before")
    @classmethod
    def _keyed(cls, raw: Any) -> Any:
        if isinstance(raw, str):
            raise ValueError(f"strategy: {raw!r} stands alone; write {{strategy: {raw}}}")
        return raw


class Reference(Searched):
    """The configuration that everything is compared with. It runs first, at the same compute.

    With `search` or `shared_search` it is searched as well, by default in as many trials as the candidate
    that gets most: the best of N is then compared with the best of N.
    """

    label: Label | None = None
    """Name in tables and tags; default: the preset's name."""

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
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the document before it runs."""

    @property
    def reference_trials(self) -> int:
        """Configurations of the reference, its own values included."""

    @property
    def shares(self) -> dict[str, int]:
        """Label of the reference and of each candidate -> configurations."""

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

    def fullest_loss(self) -> LossConfig:
        """Return the loss with every part that any configuration may use: what must be there, and fit."""

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
    shared_search: Annotated[dict[str, Range], Field(default_factory=dict)]
    """Setting of the trial -> range, searched for every candidate and for the reference. A range of the same
    setting in a `search` of their own wins over it."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2)
    """Run seeds of every configuration. Fewer than three are not enough evidence for a comparison."""
    search: SearchConfig = SearchConfig()
    confirm: ConfirmConfig = ConfirmConfig()
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
        check_shared(self.shared_search)
        for searched in (self.reference, *self.candidates):
            check_searched(self, searched, self._where(searched))
        check_quotas(self)
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
        """Trials of the reference, its own values included, and again wherever a candidate runs again."""
        if not self.space_of(self.reference).ranges:
            return max(self.reference.trials or 1, 1 + self.repeats)
        return (self.reference.trials or self.best_supplied) + self.repeats

    @property
    def best_supplied(self) -> int:
        """Most configurations that one candidate gets, or as many as the reference has, if they are fewer."""
        most = max(
            different(self.space_of(candidate), quota)
            for candidate, quota in zip(self.candidates, self.quotas, strict=True)
        )
        return different(self.space_of(self.reference), most)

    @property
    def candidate_trials(self) -> int:
        """Trials of all candidates."""
        return self.search.trials if self.search.trials is not None else sum(self.quotas)

    @property
    def quotas(self) -> tuple[int, ...]:
        """Trials of each candidate."""
        return quotas(self)

    @property
    def repeats(self) -> int:
        """How often the reference runs again under fresh seeds, because a candidate does."""
        return repeats(self)

    @property
    def shares(self) -> dict[str, int]:
        """Label -> trials; the reference first."""
        labels = [self.label_of(candidate) for candidate in self.candidates]
        return {self.reference_label: self.reference_trials, **dict(zip(labels, self.quotas, strict=True))}

    @property
    def trials(self) -> int:
        """All configurations of the sweep."""
        return self.reference_trials + self.candidate_trials

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the document before it runs."""
        own = [(self._where(one), one.search) for one in (self.reference, *self.candidates)]
        return (
            *(
                f"{where}.search.{name} wins over shared_search.{name}"
                for where, search in own
                for name in search
                if name in self.shared_search
            ),
            *quota_notes(self),
        )

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

    def fullest_loss(self) -> LossConfig:
        """Return the loss with every part that any configuration may use: what must be there, and fit."""
        searched = {name for one in (self.reference, *self.candidates) for name in self.space_of(one).ranges}
        return with_all_parts(self.trial.loss, (config.loss for config in self.configs()), searched)

    def text(self) -> str:
        """Return the spec as YAML that `load_spec` reads back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json", by_alias=True), sort_keys=False, width=100)

    def label_of(self, searched: Searched) -> str:
        """Return the reference's or a candidate's name in the study and in tables."""
        return self.reference_label if searched is self.reference else candidate_label(searched)

    def space_of(self, searched: Searched) -> Space:
        """Return what is searched of the reference or of a candidate, and its values before the search."""
        known = {**setting_values(self.trial), **parameters(searched.strategy), **searched.settings}
        return Space(searched.strategy, {**self.shared_search, **searched.search}, known)

    def config_of(self, searched: Searched, values: Mapping[str, Value]) -> TrialConfig:
        """Return the reference's or a candidate's configuration at these values of what is searched.

        Raises:
            SpecError: it cannot run; with the field as the user wrote it.
        """
        chosen = {**searched.settings, **values}
        settings = {name: value for name, value in chosen.items() if is_setting(name)}
        strategy = merge(
            searched.strategy, {name: value for name, value in chosen.items() if name not in settings}
        )
        try:
            return with_settings(self.trial, settings).with_strategy(strategy)
        except ValidationError as error:
            raw = {**nested(settings), "strategy": strategy}
            where = f"{self._where(searched)}.strategy"
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
