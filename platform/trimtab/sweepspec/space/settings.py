"""Settings of a trial that may be searched beside the strategy's own parameters, and why others may not.

A setting goes by its dotted path under `trial`, such as `learner.lr`. What is not refused here is searchable,
so a new setting of learner, loss or sampling is searchable from the day it exists.
"""

from __future__ import annotations

import types
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from trainables.config import LossConfig
from trainables.strategies.wording import did_you_mean
from trainables.trial import TrialSettings
from trimtab.errors import SpecError

COMPUTE = "it changes the compute, at which all configurations must be equal"
MEASURE = "it changes how a configuration is judged, which must be the same for all"
SLOT = "it belongs to the slot, whose processes serve every configuration"
RESULT = "it does not change what is learned"
GUARD = "it decides which runs fail and not how they learn"

REFUSED = {
    "model": "all configurations start from one model, which the slot's processes hold",
    "task": "all configurations train on the same data",
    "steps": COMPUTE,
    "rollouts_per_step": COMPUTE,
    "sampling.max_tokens": COMPUTE,
    "engine": SLOT,
    "verifier": MEASURE,
    "evaluation": MEASURE,
    "checkpoint_every": RESULT,
    "learner.workers": SLOT,
    "learner.zero_stage": SLOT,
    "learner.dtype": SLOT,
    "learner.betas": "it is a pair of numbers and not one",
    "learner.micro_batch_tokens": RESULT,
    "learner.collective_timeout_s": SLOT,
    "learner.command_timeout_s": SLOT,
    "learner.gradient_noise_every": RESULT,
    "loss.max_mismatch_kl": GUARD,
    "loss.kl.reference": "it is a model, of which a sweep checks and plans one",
}
"""Setting, or section with all of its settings -> why it is not searched."""


def is_setting(name: str) -> bool:
    """Tell a trial's setting from a parameter of a strategy, whose axes have other names."""
    return name.split(".")[0] in TrialSettings.model_fields


@cache
def searchable() -> tuple[str, ...]:
    """Return the dotted names of all settings that may be searched."""
    return tuple(name for name in _leaves(TrialSettings) if _refusal(name) is None)


def check_setting(name: str) -> None:
    """Refuse a setting that does not exist or is not searchable.

    Raises:
        SpecError: with the reason or the nearest name; the caller says where it was written.
    """
    why = _refusal(name)
    if why is not None:
        raise SpecError(f"is not searched: {why}; set it once under trial, for all configurations")
    if name not in searchable():
        raise SpecError(
            f"trial has no such setting; {did_you_mean(name, searchable())}these may be searched: "
            f"{', '.join(searchable())}"
        )


def nearest_setting(name: str) -> str:
    """Return a hint at the setting whose last part is `name`; empty if there is none."""
    found = [setting for setting in searchable() if setting.rpartition(".")[2] == name.rpartition(".")[2]]
    return f"did you mean {found[0]!r}? " if found else ""


def setting_values(trial: TrialSettings) -> dict[str, Any]:
    """Return the value of every searchable setting by its dotted name; None in a part that is off."""
    return settings_of(trial.model_dump())


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the searchable settings of a resolved configuration; None for one that it does not have."""
    return {name: _at(config, name) for name in searchable()}


def with_settings(trial: TrialSettings, values: Mapping[str, Any]) -> TrialSettings:
    """Return the settings with these values.

    Raises:
        ValidationError: a value, or a pair of them, that cannot be.
    """
    if not values:
        return trial
    changed: dict[str, Any] = {section: getattr(trial, section) for section in TrialSettings.model_fields}
    for section in {name.split(".")[0] for name in values}:
        changed[section] = changed[section].model_dump()
    return TrialSettings.model_validate(nested(values, changed))


def nested(values: Mapping[str, Any], into: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the mapping of mappings that dotted names stand for, laid over `into`."""
    tree: dict[str, Any] = {} if into is None else into
    for name, value in values.items():
        *parents, last = name.split(".")
        here = tree
        for parent in parents:
            if here.get(parent) is None:
                here[parent] = {}
            here = here[parent]
        here[last] = value
    return tree


def with_all_parts(loss: LossConfig, others: Iterable[LossConfig], searched: Container[str]) -> LossConfig:
    """Return the loss with each optional part that takes memory switched on, if any configuration may use it.

    `others`: losses of all configurations as they are written; `searched`: names of all searched settings.
    """
    kl, bonus, losses = loss.kl, loss.entropy_bonus, tuple(others)
    if "loss.kl.coefficient" in searched or any(other.kl.coefficient for other in losses):
        kl = kl.model_copy(update={"coefficient": kl.coefficient or 1.0})
    if "loss.entropy_bonus" in searched or any(other.entropy_bonus for other in losses):
        bonus = bonus or 1.0
    return loss.model_copy(update={"kl": kl, "entropy_bonus": bonus})


def short_settings(values: Mapping[str, Any]) -> str:
    """Return settings as they stand in a configuration's label: ` lr=0.0002 clip_high=0.3`; else empty."""
    return "".join(f" {name.rpartition('.')[2]}={_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _refusal(name: str) -> str | None:
    """Return why a setting is refused, by the longest of its prefixes that is."""
    parts = name.split(".")
    prefixes = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return next((REFUSED[prefix] for prefix in prefixes if prefix in REFUSED), None)


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is None:
            yield f"{prefix}{name}"
        else:
            yield from _leaves(inner, f"{prefix}{name}.")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that a field holds, where it holds one or null."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _at(config: Mapping[str, Any], name: str) -> Any:
    here: Any = config
    for part in name.split("."):
        if not isinstance(here, Mapping):
            return None
        here = here.get(part)
    return here
