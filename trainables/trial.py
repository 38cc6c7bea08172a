"""Everything one trial is told. Loads neither torch nor SciPy: a spec is checked before anything is."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from trainables.config import (
    EngineConfig,
    EvaluationConfig,
    LearnerConfig,
    LossConfig,
    Positive,
    SamplingConfig,
    Strict,
    TaskConfig,
    VerifierConfig,
)
from trainables.models.shape import depth_and_width
from trainables.strategies.config import StrategyConfig, parse_strategy
from trainables.strategies.suits import depth_error

LAYERS = "layers"
"""Key of the validation context: the model's decoder blocks, for the check of a strategy that reads one."""


class TrialSettings(Strict):
    """What all configurations of a sweep share: everything but the strategy."""

    model: str = "tiny"
    """`tiny` (the embedded default), a local directory, or a hub id of a causal language model."""
    task: TaskConfig = TaskConfig()
    steps: Positive = 60
    """The compute budget in full steps: a trial spends `steps * rollouts_per_step` rollouts. A strategy
    that leaves room in a step unspent gets more steps out of the same budget."""
    rollouts_per_step: Positive = 128
    """The compute knob. Prompts per step follow from the strategy's group size."""
    sampling: SamplingConfig = SamplingConfig()
    learner: LearnerConfig = LearnerConfig()
    loss: LossConfig = LossConfig()
    engine: EngineConfig = EngineConfig()
    verifier: VerifierConfig = VerifierConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint_every: Annotated[int, Field(ge=0)] = 0
    """Steps between checkpoints; 0 = only at the end of a run."""

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.sampling.max_tokens >= self.engine.max_model_len:
            raise ValueError(
                f"sampling.max_tokens: {self.sampling.max_tokens} leaves no room for a prompt in "
                f"engine.max_model_len={self.engine.max_model_len}; raise engine.max_model_len"
            )
        if self.loss.overlong_buffer > self.sampling.max_tokens:
            raise ValueError(
                f"loss.overlong_buffer: {self.loss.overlong_buffer} exceeds sampling.max_tokens="
                f"{self.sampling.max_tokens}; lower the buffer"
            )
        return self

    @property
    def budget(self) -> int:
        """Rollouts of the whole run."""
        return self.steps * self.rollouts_per_step

    @cached_property
    def layers(self) -> int | None:
        """Decoder blocks of the model, read from disk once; None where only a download would tell."""
        size = depth_and_width(self.model)
        return None if size is None else size.layers

    def with_strategy(self, strategy: object) -> TrialConfig:
        """Return the configuration under one strategy; only that and what ties it to the rest is checked.

        Raises:
            ValidationError: the strategy cannot run, or not with these settings or this model.
        """
        settings = {name: getattr(self, name) for name in TrialSettings.model_fields}
        return TrialConfig.model_validate({**settings, "strategy": strategy}, context={LAYERS: self.layers})


class TrialConfig(TrialSettings):
    """One configuration. The run seed comes separately, because a trial runs several."""

    strategy: Annotated[StrategyConfig, BeforeValidator(parse_strategy)]
    """A preset's name, a preset with parameters, its axes spelled out, or `package.module:Class`."""

    @model_validator(mode="after")
    def _strategy_fits(self, info: ValidationInfo) -> Self:
        given = info.context or {}
        if LAYERS not in given:
            given = {LAYERS: self.layers}
        layers = given[LAYERS]
        if layers is not None and (problem := depth_error(self.strategy, layers)):
            raise ValueError(problem)
        least = self.strategy.min_rollouts()
        if least > self.rollouts_per_step:
            raise ValueError(
                f"rollouts_per_step: {self.rollouts_per_step} is less than the {least} rollouts that "
                f"strategy {self.strategy.label()!r} needs for a single prompt; raise rollouts_per_step to "
                f"at least {least} or lower the strategy's group size"
            )
        return self
