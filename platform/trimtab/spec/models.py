"""What a user writes to start a sweep."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from trainables.config import Strict, TrialConfig
from trimtab.errors import ModelError, SpecError
from trimtab.home import check_name
from trimtab.spec.imports import check_imports
from trimtab.spec.messages import spec_error
from trimtab.spec.ranges import Known, Range, Value
from trimtab.spec.strategy import check_parameter, default_label, merge, parameters

RawStrategy = str | dict[str, Any]
"""As in `TrialConfig.strategy`: a preset's name, a preset with parameters, axes, or an import path."""

CORNERS = 1024
"""How many combinations of extreme values of one candidate are tried at load."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Reference(Strict):
    """The configuration that everything is compared with. It runs first, at the same compute."""

    strategy: RawStrategy
    label: str | None = None
    """Name in tables and tags; default: the preset's name."""


class Candidate(Strict):
    """One strategy, and which of its parameters are searched."""

    strategy: RawStrategy
    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] | None = None
    """Prefix of its parameters in the study, and its name in tables; default: the preset's name."""
    search: Annotated[dict[str, Range], Field(default_factory=dict)]
    """Parameter -> range. A parameter of a preset by its name; one of spelled-out axes by a dotted path such
    as `budget.k_max`."""
    defaults_first: bool = True
    """Run the strategy's own values of the searched parameters before searching, where the ranges hold
    them."""


class EarlyStopping(Strict):
    """Stop configurations that fall behind at equal compute (ASHA, arXiv 1810.05934)."""

    type: Literal["asha"] = "asha"
    first_rung: Annotated[int, Field(ge=1)]
    """Rollouts of a trial (all its seeds, in the order they run) before it can be stopped."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    """One in so many configurations passes a rung; rungs are this factor apart."""


class SearchConfig(Strict):
    """How candidates are drawn."""

    trials: Annotated[int, Field(ge=1)] = 5
    """Configurations beside the reference; each runs all seeds."""
    sampler: Literal["tpe", "random"] = "tpe"
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the sampler; the run seeds are `seeds`."""
    early_stopping: EarlyStopping | None = None


class SlotsConfig(Strict):
    """What one slot (a learner group and its engines) may take of the machine."""

    count: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Slots at once; `auto`: as many as fit, at most one for each configuration."""
    learner_cpus: Annotated[float, Field(gt=0)] = 0.45
    """CPU cores of each learner worker."""
    engine_cpus: Annotated[float, Field(gt=0)] = 0.45
    """CPU cores of each rollout engine. One worker, one engine and the trial's 0.1 make one core."""
    learner_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each learner worker; fractions share a GPU."""
    engine_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each engine, in all (tensor parallelism over n GPUs needs n)."""
    memory_gb: Annotated[float, Field(gt=0)] = 3.0
    """Host memory of the whole slot, in GB (1e9 bytes)."""

    @model_validator(mode="after")
    def _whole_gpus(self) -> SlotsConfig:
        for field in ("learner_gpus", "engine_gpus"):
            value: float = getattr(self, field)
            if value > 1 and value != int(value):
                raise ValueError(
                    f"{field}: {value} is no whole number of GPUs; only fractions below 1 share one"
                )
        return self


class TrackingConfig(Strict):
    """Where results are recorded."""

    uri: str | None = None
    """MLflow tracking URI; default: SQLite under `home`."""
    experiment: Annotated[str, Field(min_length=1)] = "trimtab"
    """MLflow experiment that holds the runs."""


class SweepSpec(Strict):
    """A sweep: one task and budget, a reference, candidates, seeds."""

    name: str
    """Family of the sweep's name: the first is called so, later ones `<name>-2`, `<name>-3`, ..."""
    trial: Annotated[dict[str, Any], Field(default_factory=dict)]
    """`TrialConfig` without its strategy: shared by all, so that only the baseline axes differ."""
    reference: Reference
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2)
    """Run seeds of every configuration. Fewer than three are not enough evidence for a comparison."""
    search: SearchConfig = SearchConfig()
    slots: SlotsConfig = SlotsConfig()
    tracking: TrackingConfig = TrackingConfig()
    storage: str | None = None
    """Optuna storage URL (PostgreSQL); default: a journal file in the sweep's folder."""
    home: Path = Path(".trimtab")
    """Folder of everything that sweeps leave behind."""

    @model_validator(mode="after")
    def _runs(self) -> SweepSpec:
        check_name(self.name)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} names a seed twice; give distinct seeds")
        _check_labels([candidate_label(candidate) for candidate in self.candidates])
        if "strategy" in self.trial:
            raise ValueError(
                "trial.strategy: strategies differ between configurations; move it to reference.strategy or "
                "candidates[].strategy"
            )
        config = self.reference_config()
        check_model(config.model)
        for index, candidate in enumerate(self.candidates):
            _check_candidate(self, index, candidate)
        rung = self.search.early_stopping.first_rung if self.search.early_stopping else 0
        budget = config.budget * len(self.seeds)
        if rung >= budget:
            raise ValueError(
                f"search.early_stopping.first_rung: {rung} rollouts is the whole trial ({budget} over "
                f"{len(self.seeds)} seeds); lower it or remove early_stopping"
            )
        return self

    @property
    def reference_label(self) -> str:
        return self.reference.label or default_label(self.reference.strategy, "reference")

    @property
    def budget(self) -> int:
        """Rollouts of one run (one configuration, one seed)."""
        return self.reference_config().budget

    def reference_config(self) -> TrialConfig:
        """The reference's resolved configuration."""
        return _trial_config(self.trial, self.reference.strategy, "reference.strategy")

    def candidate_config(self, candidate: Candidate, values: Mapping[str, Value]) -> TrialConfig:
        """A candidate's resolved configuration at these values of its searched parameters."""
        index = self.candidates.index(candidate)
        return _trial_config(self.trial, merge(candidate.strategy, values), f"candidates.{index}.strategy")


class _BoundsError(SpecError):
    """Bounds that cannot be resolved; the caller knows which candidate they belong to."""


def candidate_label(candidate: Candidate) -> str:
    return candidate.label or default_label(candidate.strategy, "candidate")


def known_values(candidate: Candidate) -> dict[str, Any]:
    """Values of a candidate's parameters before the search: what is written, over the preset's defaults."""
    return parameters(candidate.strategy)


def corners(candidate: Candidate) -> Iterator[dict[str, Value]]:
    """Combinations of extreme values of the searched parameters, at most CORNERS of them."""
    names = list(candidate.search)
    known = known_values(candidate)

    def walk(depth: int, chosen: dict[str, Value]) -> Iterator[dict[str, Value]]:
        if depth == len(names):
            yield dict(chosen)
            return
        name = names[depth]
        here: Known = {**known, **chosen}
        try:
            values = candidate.search[name].corners(here)
        except SpecError as error:
            raise _BoundsError(f"search.{name}: {error}") from None
        for value in values:
            yield from walk(depth + 1, {**chosen, name: value})

    for count, corner in enumerate(walk(0, {})):
        if count == CORNERS:
            return
        yield corner


def check_model(model: str) -> None:
    """Refuse a model that is neither built in, nor a directory, nor shaped like a hub id. No network."""
    if model == "tiny":
        return
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"trial.model: {model!r} holds no config.json; give a directory in Hugging Face format"
            )
        return
    if not HUB_ID.fullmatch(model) or path.parent.is_dir():
        raise ModelError(
            f"trial.model: {model!r} does not exist; give 'tiny' (built in), an existing directory in "
            "Hugging Face format, or a hub id such as 'org/name'"
        )


def _trial_config(trial: Mapping[str, Any], strategy: RawStrategy, where: str) -> TrialConfig:
    raw = {**trial, "strategy": strategy}
    try:
        config = TrialConfig.model_validate(raw)
    except ValidationError as error:
        raise spec_error(error, TrialConfig, raw, prefix="trial", renamed={"strategy": where}) from None
    check_imports(config, where)
    return config


def _check_labels(labels: list[str]) -> None:
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(
                f"candidates: the label {label!r} occurs {labels.count(label)} times; give each candidate a "
                "label: of its own"
            )


def _check_candidate(spec: SweepSpec, index: int, candidate: Candidate) -> None:
    """Build the candidate at every corner of its space, so that no trial can be refused later."""
    where = f"candidates.{index}"
    names = list(candidate.search)
    for position, (name, range_) in enumerate(candidate.search.items()):
        try:
            check_parameter(candidate.strategy, name)
        except SpecError as error:
            raise SpecError(f"{where}.search.{name}: {error}") from None
        for reference in range_.references():
            if reference in names[position:]:
                when = "at the same time" if reference == name else "after it"
                raise SpecError(
                    f"{where}.search.{name}: its bound follows {reference!r}, which is drawn {when}; list "
                    f"{reference!r} first"
                )
    if isinstance(candidate.strategy, dict) and any(name in candidate.strategy for name in names):
        # The search replaces these values, but an impossible one is a mistake and not a default.
        spec.candidate_config(candidate, {})
    try:
        for corner in corners(candidate):
            _try_corner(spec, candidate, corner, where)
    except _BoundsError as error:
        raise SpecError(f"{where}.{error}") from None


def _try_corner(spec: SweepSpec, candidate: Candidate, corner: Mapping[str, Value], where: str) -> None:
    try:
        spec.candidate_config(candidate, corner)
    except SpecError as error:
        if not corner or str(error) == _own_error(spec, candidate):
            raise
        point = ", ".join(f"{name}={value!r}" for name, value in corner.items())
        fields = " and ".join(f"search.{name}" for name in _blamed(corner, str(error)))
        raise SpecError(
            f"{where}.{fields}: the space holds {point}, which cannot run: {error}. Narrow the range, "
            "or let a bound follow another parameter: int: [<parameter>, 16]"
        ) from None


def _own_error(spec: SweepSpec, candidate: Candidate) -> str | None:
    """What is wrong with the candidate as it is written, whatever the search draws."""
    try:
        spec.candidate_config(candidate, {})
    except SpecError as error:
        return str(error)
    return None


def _blamed(corner: Mapping[str, Value], message: str) -> list[str]:
    """Searched parameters that the message names; all of them if it names none."""
    named = [name for name in corner if re.search(rf"\b{re.escape(name.rsplit('.', 1)[-1])}\b", message)]
    return named or list(corner)
