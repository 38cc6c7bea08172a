"""The file that `trimtab promote` writes and `trimtab train` runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

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

    Null: as in `trial`.
    """

    model: str | None = None
    steps: Positive | None = None
    rollouts_per_step: Positive | None = None
    workers: Positive | None = None
    """Learner workers."""
    engines: Positive | None = None
    """Rollout engines."""
    tensor_parallel: Positive | None = None
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    max_tokens: Positive | None = None
    """Longest response, in tokens."""
    max_model_len: Positive | None = None
    train: str | None = None
    """Training prompts: path or hub id."""
    validation: str | None = None
    evaluate_every: Positive | None = None
    checkpoint_every: Positive = 10
    """Most steps that a kill can cost."""
    seed: Annotated[int, Field(ge=0)] = 0
    alias: str | None = None
    """Alias that the trained version gets; null: no alias."""


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
        more, raw = self.production, {**self.trial}

        def put(part: str | None, **values: Any) -> None:
            given = {key: value for key, value in values.items() if value is not None}
            if part is None:
                raw.update(given)
            elif given:
                raw[part] = {**raw.get(part, {}), **given}

        put(
            None,
            model=more.model,
            steps=more.steps,
            rollouts_per_step=more.rollouts_per_step,
            checkpoint_every=more.checkpoint_every,
        )
        put("learner", workers=more.workers, zero_stage=more.zero_stage)
        put(
            "engine",
            count=more.engines,
            tensor_parallel=more.tensor_parallel,
            max_model_len=more.max_model_len,
        )
        put("sampling", max_tokens=more.max_tokens)
        put("task", train=more.train, validation=more.validation)
        put("evaluation", every=more.evaluate_every)
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
