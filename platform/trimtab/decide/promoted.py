"""The file that `trimtab promote` writes and `trimtab train` runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from trainables.config import Strict
from trainables.trial import TrialConfig, TrialSettings
from trimtab.errors import SpecError
from trimtab.sweepspec.load import apply_override, parse_spec, read_yaml
from trimtab.sweepspec.messages import spec_error
from trimtab.sweepspec.names import check_name
from trimtab.sweepspec.spec import SlotsConfig, SweepSpec, TrackingConfig

INSIDE = "trimtab.yaml"
"""The promoted file's name beside the weights of a model version."""
Positive = Annotated[int, Field(ge=1)]


class Production(Strict):
    """What the full-size run has more of than the runs it was found with. Null: as in `trial`."""

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
    """Steps that a kill can cost at most."""
    seed: Annotated[int, Field(ge=0)] = 0
    alias: str | None = None
    """Alias that the trained version gets; null: none."""


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
        self.config()
        return self

    def config(self) -> TrialConfig:
        """The configuration at full size."""
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
        settings = {key: value for key, value in raw.items() if key != "strategy"}
        try:
            return TrialSettings.model_validate(settings).with_strategy(raw.get("strategy"))
        except ValidationError as error:
            raise spec_error(error, TrialConfig, raw, prefix="trial") from None

    def as_spec(self, home: Path) -> SweepSpec:
        """The one run as a spec, for the plan, the tracker and the display."""
        raw = self.config().model_dump(mode="json")
        strategy = raw.pop("strategy")
        return parse_spec(
            {
                "name": self.name,
                "trial": raw,
                "reference": {"strategy": strategy, "label": "production"},
                "candidates": [{"strategy": strategy, "label": "unused"}],
                "seeds": [self.production.seed],
                "search": {"trials": 1, "sampler": "random"},
                "slots": {**self.slots.model_dump(mode="json"), "count": 1},
                "tracking": self.tracking.model_dump(mode="json"),
                "home": str(home),
            }
        )


def load_promoted(file: Path, overrides: tuple[str, ...] = ()) -> Promoted:
    """Read and check a promoted file. SpecError: what is wrong with it."""
    if not file.is_file():
        raise SpecError(f"{file}: no such file; trimtab promote writes promoted/NAME.yaml")
    raw = read_yaml(file)
    for override in overrides:
        apply_override(raw, override)
    try:
        return Promoted.model_validate(raw)
    except ValidationError as error:
        raise spec_error(error, Promoted, raw) from None
