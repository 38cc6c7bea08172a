"""The file that `trimtab promote` writes and `trimtab train` runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from trainables.config import LossConfig, Strict
from trainables.models.reference import check_reference
from trainables.models.resolve import check_model
from trainables.strategies.suits import warmup_error
from trainables.strategies.wording import did_you_mean
from trainables.trial import TrialConfig, TrialSettings
from trimtab.errors import SpecError
from trimtab.security import check_plain, check_url
from trimtab.sweepspec.imports import check_own_members
from trimtab.sweepspec.load import apply_override, read_yaml
from trimtab.sweepspec.messages import spec_error
from trimtab.sweepspec.names import check_name
from trimtab.sweepspec.outside import check_task
from trimtab.sweepspec.sections import SlotsConfig, TrackingConfig
from trimtab.sweepspec.spec import Purpose, check_urls

INSIDE = "trimtab.yaml"
"""The promoted file's name beside the weights of a model version."""
Positive = Annotated[int, Field(ge=1)]


class Production(Strict):
    """What the full-size run has more of than the runs that its configuration was found with.

    Null: as in `trial`. The promoted file shows every option with its documentation here.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    model: str | None = None
    """Directory or hub id."""
    steps: Positive | None = None
    """Steps of rollouts_per_step rollouts."""
    rollouts_per_step: Positive | None = None
    """Rollouts that a step may spend."""
    workers: Positive | None = None
    """Learner workers."""
    engines: Positive | None = None
    """Rollout engines."""
    tensor_parallel: Positive | None = None
    """GPUs of one engine."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    """DeepSpeed's ZeRO stage."""
    max_tokens: Positive | None = None
    """Longest response, in tokens."""
    max_model_len: Positive | None = None
    """Prompt and response, in tokens."""
    train: str | None = None
    """Training prompts: a file, a slice of it or a hub id."""
    validation: str | None = None
    """Validation prompts, the same."""
    evaluate_every: Positive | None = None
    """Steps between evaluations."""
    checkpoint_every: Positive = 10
    """Steps between checkpoints: most that a kill can cost."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the run."""
    alias: str | None = None
    """Alias that the trained version gets; null: no alias."""


PLACES = {
    "model": ("model",),
    "steps": ("steps",),
    "rollouts_per_step": ("rollouts_per_step",),
    "workers": ("learner", "workers"),
    "engines": ("engine", "count"),
    "tensor_parallel": ("engine", "tensor_parallel"),
    "zero_stage": ("learner", "zero_stage"),
    "max_tokens": ("sampling", "max_tokens"),
    "max_model_len": ("engine", "max_model_len"),
    "train": ("task", "train"),
    "validation": ("task", "validation"),
    "evaluate_every": ("evaluation", "every"),
    "checkpoint_every": ("checkpoint_every",),
}
"""Option of `production` -> where it goes in a trial's configuration."""


def production_text(trial: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Write `production:` with what is given, and every other option as a comment with the trial's value."""
    lines = ["production:"]
    for option, field in Production.model_fields.items():
        mark, value = "", given.get(option)
        if option not in given:
            mark = "# "
            value = trial
            for part in PLACES.get(option, ()):
                value = value.get(part) if isinstance(value, Mapping) else None
            value = None if value is trial else value
        written = f"  {mark}{option}: {json.dumps(value)}"
        lines.append(f"{written:<40} # {field.description}")
    return "\n".join(lines) + "\n"


class Promoted(Strict):
    """A promoted configuration."""

    name: str
    """Of the registered model and of the training run."""
    trial: dict[str, Any]
    """`TrialConfig` of the runs that the verdict comes from."""
    production: Production = Production()
    slots: SlotsConfig = SlotsConfig()
    """What the learner workers and engines may take of a machine."""
    tracking: TrackingConfig = TrackingConfig()
    provenance: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _runs(self) -> Promoted:
        check_name(self.name)
        check_urls(None, self.tracking.uri)
        self.config()
        return self

    def config(self) -> TrialConfig:
        """Return the configuration at full size."""
        raw = {**self.trial}
        for option, (*parts, name) in PLACES.items():
            value = getattr(self.production, option)
            if value is None:
                continue
            if parts:
                raw[parts[0]] = {**raw.get(parts[0], {}), name: value}
            else:
                raw[name] = value
        if "strategy" not in raw:
            raise SpecError("trial.strategy: is missing; add it")
        settings = {key: value for key, value in raw.items() if key != "strategy"}
        try:
            return TrialSettings.model_validate(settings).with_strategy(raw["strategy"])
        except ValidationError as error:
            raise spec_error(error, TrialConfig, raw, prefix="trial") from None

    def text(self) -> str:
        """Return the file's content, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=100)


@dataclass(frozen=True)
class Training:
    """The one full-size run of a promoted configuration, as a session's `Work`."""

    promoted: Promoted

    trials = 1
    reference_trials = 1
    reference_label = "production"
    confirms = None
    notes: tuple[str, ...] = ()

    @property
    def shares(self) -> dict[str, int]:
        return {self.reference_label: 1}

    @property
    def name(self) -> str:
        return self.promoted.name

    @property
    def slots(self) -> SlotsConfig:
        return self.promoted.slots.model_copy(update={"count": 1})

    @property
    def tracking(self) -> TrackingConfig:
        return self.promoted.tracking

    @property
    def seeds(self) -> tuple[int, ...]:
        return (self.promoted.production.seed,)

    @property
    def budget(self) -> int:
        return self.reference_config().budget

    @property
    def purpose(self) -> Purpose:
        return "train"

    def reference_config(self) -> TrialConfig:
        return self.promoted.config()

    def configs(self) -> list[TrialConfig]:
        return [self.reference_config()]

    def fullest_loss(self) -> LossConfig:
        return self.reference_config().loss

    def text(self) -> str:
        return self.promoted.text()

    def check(self) -> None:
        """Check what the configuration refers to outside itself, as `check_outside` does for a spec.

        Raises:
            SpecError: data, a task or a class of the user's own is missing, `evaluation.split` is `test`, or
                all of the run would be warm-up.
            ModelError: the model is not there, or the reference of the loss does not fit it.
            SecurityError: the file holds a secret.
        """
        config = self.reference_config()
        if config.evaluation.split == "test":
            raise SpecError(
                "trial.evaluation.split: test would show the training the prompts of the verdict; remove it"
            )
        check_model(config.model)
        check_reference(config.loss.kl, config.model)
        check_task(config.task)
        check_own_members([config.strategy], "trial")
        if problem := warmup_error(config.strategy, config.steps):
            raise SpecError(f"trial.strategy: {problem}")
        check_url("tracking.uri", self.tracking.uri)
        check_plain("promoted", self.promoted.model_dump(mode="json"))


def load_promoted(file: Path, overrides: tuple[str, ...] = ()) -> Promoted:
    """Read a promoted file, and set what `overrides` (`key.path=value`) say.

    Raises:
        SpecError: there is no such file, or it holds something other than a promoted configuration.
    """
    if not file.is_file():
        there = sorted(str(other) for other in Path("promoted").glob("*.yaml"))
        raise SpecError(
            f"{file}: no such file; {did_you_mean(file, there)}trimtab promote writes promoted/NAME.yaml"
            + (f"; there are {', '.join(there)}" if there else "")
        )
    raw = read_yaml(file)
    for override in overrides:
        apply_override(raw, override)
    try:
        return Promoted.model_validate(raw)
    except ValidationError as error:
        raise spec_error(error, Promoted, raw) from None
