"""What a user may write under `strategy:`, checked before anything starts. Pydantic only.

Four forms, all resolved to one `StrategyConfig`:

    strategy: dapo                                              a preset
    strategy: {preset: v05, group_size: 4, alpha: 0.1}          a preset with its parameters (and other axes)
    strategy: {prior: strata, fusion: {type: tested, alpha: 0.1}, budget: {type: sequential, k_max: 16}}
    strategy: mypkg.mine:Baseline                               your own class (or {custom: ..., params: ...})
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, model_validator
from pydantic.fields import FieldInfo

from trainables.errors import SpecError
from trainables.strategies import axes
from trainables.strategies.learned import check_critic, check_probe
from trainables.strategies.presets import PRESETS, Preset
from trainables.strategies.wording import did_you_mean, explain

IMPORT_PATH = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
COMMON = ("prior", "fusion", "budget", "estimator", "normaliser", "weighting", "reward_range", "warmup")
"""Keys that may stand beside a preset's own parameters."""

ROUNDS = 16
"""Rounds of sampling that every strategy may take in one step, one of your own included."""
NEEDS_PRIOR = ("prior_only", "tested", "beta", "ebpo", "james_stein")
"""Fusions that mix in a prior."""
FORESIGHT = ("strata", "global", "tracker", "context", "custom")
"""Priors that speak before anything is sampled; `allocated` and `weighted` budgets choose by them."""


class Parameter(NamedTuple):
    """One parameter of a preset, for the check of a sweep's search space."""

    type: str
    """`int`, `float`, `bool` or `str`."""
    default: int | float | bool | str | None
    bounds: tuple[float | None, float | None]
    """Smallest and largest value, or the open limits (alpha: (0, 1)); None = unbounded."""
    choices: tuple[str, ...] = ()
    """The allowed values of a `str`."""


class WarmupConfig(BaseModel):
    """Train with another strategy first, while this one's prior gathers evidence."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    updates: int = Field(ge=1)
    """Updates under the other strategy; both observe all of them."""
    strategy: StrategyConfig

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "strategy" in value:
            return {**value, "strategy": parse_strategy(value["strategy"])}
        return value


class StrategyConfig(BaseModel):
    """A fully resolved strategy: one member per axis. `model_dump(mode="json")` holds everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    """Preset it was opened from, or empty."""
    settings: dict[str, Any] = {}
    """What was written beside `preset`; with `name` it reproduces the axes."""
    prior: axes.Prior = axes.NoPrior()
    fusion: axes.Fusion = axes.GroupMean()
    budget: axes.Budget = axes.Fixed()
    estimator: axes.Estimator = axes.MonteCarlo()
    normaliser: axes.Normaliser = axes.NoNormaliser()
    weighting: Literal["rollout", "prompt"] = "rollout"
    """`rollout`: every rollout weighs 1, a prompt as much as it was sampled (summed; unbiased under
    sequential stopping). `prompt`: every prompt weighs the same (averaged)."""
    reward_range: tuple[float, float] = (0.0, 1.0)
    """Smallest and largest `correct`. The worst-case variance s2 is (high - low)^2 / 4."""
    warmup: WarmupConfig | None = None
    custom: str | None = Field(default=None, pattern=IMPORT_PATH.pattern)
    """Import path of a whole strategy of your own; it is built as `Class(**params)` and the axes are
    ignored."""
    params: dict[str, Any] = {}

    @field_serializer("settings", mode="plain")
    def _plain(self, value: dict[str, Any]) -> dict[str, Any]:
        return {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _consistent(self) -> StrategyConfig:
        if self.custom is None:
            _check_range(self.reward_range)
            _check_group(self)
            _check_prior(self)
            check_probe(self.prior, self.fusion, self.budget.type, smallest_group(self.budget))
            check_critic(self.prior, self.estimator, self.reward_range)
            _check_estimator(self)
        elif self.warmup is not None:
            raise ValueError("warmup: not available beside `custom`; wrap inside your own class")
        if self.params and self.custom is None:
            raise ValueError("params: belongs to `custom`; write a preset's parameters flat beside `preset`")
        if self.name:
            _check_name(self)
        return self

    def min_rollouts(self) -> int:
        """Rollouts that a single prompt needs at least, greedy ones included."""
        if self.custom is not None:
            return 1
        first = max(smallest_group(self.budget), getattr(self.budget, "bootstrap", 0))
        own = first + (1 if self.prior.type == "greedy" else 0)
        return max(own, self.warmup.strategy.min_rollouts() if self.warmup else 0)

    def rounds(self) -> int:
        """Rounds of sampling that one step may take, so that every cap of the budget can be reached."""
        need = 1 if self.custom is not None else rounds_of(self.budget)
        later = self.warmup.strategy.rounds() if self.warmup is not None else 1
        return max(ROUNDS, need, later)

    def label(self) -> str:
        """Short human name, such as `v05(k=4,alpha=0.1)` or `strata+tested(alpha=0.1)+sequential(4-16)`."""
        if self.custom is not None:
            return self.custom.partition(":")[2]
        if self.name:
            return _preset_label(self.name, self.settings)
        parts = [_member_label(m) for m in (self.prior, self.fusion, self.budget, self.normaliser)]
        return "+".join(p for p in parts if p != "none")


def parse_strategy(value: object) -> StrategyConfig:
    """Resolve what a user wrote. Raises SpecError naming the field, the value and the fix."""
    if isinstance(value, StrategyConfig):
        return value
    if isinstance(value, str):
        value = {"custom": value} if ":" in value else {"preset": value}
    if not isinstance(value, Mapping):
        raise SpecError(
            f"strategy: {value!r} is neither a preset's name, a mapping, nor an import path "
            f"'package.module:Class'; known presets: {', '.join(PRESETS)}"
        )
    if not value:
        raise SpecError(
            f"strategy: {{}} names nothing; write a preset ({', '.join(PRESETS)}), axes such as prior and "
            f"fusion, or an import path 'package.module:Class'"
        )
    fields = dict(value)
    if "preset" in fields:
        name = fields.pop("preset")
        fields = {**_open_preset(name, fields), "name": name, "settings": fields}
    try:
        return StrategyConfig(**fields)
    except ValidationError as error:
        raise SpecError("\n".join(explain(error, StrategyConfig, fields, prefix="strategy"))) from error


def preset_names() -> tuple[str, ...]:
    """All presets, in the order of the documentation."""
    return tuple(PRESETS)


def preset_parameters(name: str) -> dict[str, Parameter]:
    """A preset's own parameters: what a search space may range over. Raises SpecError if unknown."""
    return {field: _parameter(info) for field, info in _preset(name).model_fields.items()}


def smallest_group(budget: BaseModel) -> int:
    """Rollouts a prompt has after its first round."""
    for field in ("k_min", "low", "group_size"):
        if hasattr(budget, field):
            return int(getattr(budget, field))
    return 1


def rounds_of(budget: BaseModel) -> int:
    """Rounds until a prompt of the first round has met its cap; twice as many where prompts come later."""
    match budget:
        case axes.Sequential():
            need = 1 + math.ceil((budget.k_max - budget.k_min) / budget.draw)
            return 2 * need if budget.refill else need
        case axes.TwoPhase():
            return 1 + math.ceil((budget.k_max - budget.group_size) / budget.group_size)
        case axes.Dynamic():
            return 1 + budget.max_refills
        case _:
            return 1


def _preset(name: object) -> type[Preset]:
    if not isinstance(name, str) or name not in PRESETS:
        raise SpecError(
            f"strategy.preset: {name!r} is unknown; {did_you_mean(name, PRESETS)}choose one of "
            f"{', '.join(PRESETS)}"
        )
    return PRESETS[name]


def _open_preset(name: object, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Axes of a preset, with the axes written beside it put in place."""
    preset = _preset(name)
    own = {k: v for k, v in fields.items() if k not in COMMON}
    unknown = [k for k in own if k not in preset.model_fields]
    if unknown:
        raise SpecError(
            f"strategy.{unknown[0]}: unknown for preset {name!r} (value {own[unknown[0]]!r}); "
            f"{did_you_mean(unknown[0], (*preset.model_fields, *COMMON))}its parameters are "
            f"{', '.join(preset.model_fields)}; the axes {', '.join(COMMON)} may be replaced as well"
        )
    try:
        point = preset(**own).axes()
    except ValidationError as error:
        raise SpecError("\n".join(explain(error, preset, own, prefix="strategy"))) from error
    return {**point, **{k: v for k, v in fields.items() if k in COMMON}}


def _check_name(config: StrategyConfig) -> None:
    """A name must not lie: the same preset with the same settings gives these axes."""
    fields = _open_preset(config.name, config.settings)
    for axis in COMMON:
        if axis not in fields:
            expected = StrategyConfig.model_fields[axis].default
        else:
            expected = _coerce(axis, fields[axis])
        if getattr(config, axis) != expected:
            raise ValueError(
                f"{axis}: differs from what preset {config.name!r} stands for; remove `name` and `settings`, "
                f"or write {{preset: {config.name}, {axis}: ...}}"
            )


def _coerce(axis: str, value: object) -> object:
    probe = {"warmup": WarmupConfig}.get(axis)
    if probe is not None:
        return None if value is None else probe.model_validate(value)
    return getattr(_Axes.model_validate({axis: value}), axis)


class _Axes(BaseModel):
    """The axes alone, without cross-field checks: turns a shorthand into the member it stands for."""

    prior: axes.Prior = axes.NoPrior()
    fusion: axes.Fusion = axes.GroupMean()
    budget: axes.Budget = axes.Fixed()
    estimator: axes.Estimator = axes.MonteCarlo()
    normaliser: axes.Normaliser = axes.NoNormaliser()
    weighting: str = "rollout"
    reward_range: tuple[float, float] = (0.0, 1.0)


def _check_range(reward_range: tuple[float, float]) -> None:
    low, high = reward_range
    if not low < high or high - low == float("inf"):
        raise ValueError(f"reward_range: [{low}, {high}] is empty or unbounded; write [lowest, highest]")


def _check_group(config: StrategyConfig) -> None:
    """A group of one has no mean but itself: every advantage would be 0 (or undefined)."""
    fusion, size = config.fusion, smallest_group(config.budget)
    pair = fusion.type in ("group_mean", "leave_one_out", "length_weighted", "james_stein") or (
        isinstance(fusion, axes.PriorOnly) and fusion.leave_one_out
    )
    pair = pair or config.normaliser.type == "group_std"
    if size < 2 and pair and config.budget.type != "custom":
        field = "k_min" if config.budget.type == "sequential" else "group_size"
        reason = "group_std" if config.normaliser.type == "group_std" else fusion.type
        raise ValueError(
            f"budget.{field}: {size} gives a group of one under {reason!r}, whose advantage is always 0; "
            f"raise {field} to at least 2 or choose a fusion that reads a prior"
        )


def _check_prior(config: StrategyConfig) -> None:
    prior, fusion, budget = config.prior.type, config.fusion.type, config.budget.type
    for axis, member, needy in (
        ("fusion", fusion, fusion in NEEDS_PRIOR),
        ("budget", budget, budget in ("sequential", "allocated", "weighted")),
    ):
        if needy and prior == "none":
            raise ValueError(
                f"prior: none, but {axis} {member!r} mixes in a prior; set prior to strata, tracker, "
                f"global or your own"
            )
    if budget in ("allocated", "weighted") and prior not in FORESIGHT:
        raise ValueError(
            f"prior: {prior!r} speaks only after sampling, but budget {budget!r} chooses by it beforehand; "
            f"set prior to one of {', '.join(FORESIGHT)}"
        )
    if fusion == "james_stein" and prior not in ("pool", "custom"):
        raise ValueError(f"prior: {prior!r} under fusion 'james_stein'; set prior to pool")
    if fusion == "ebpo" and prior not in ("global", "strata", "custom"):
        raise ValueError(
            f"prior: {prior!r} under fusion 'ebpo', which needs the spread between and within prompts; set "
            f"prior to global or strata"
        )


def _check_estimator(config: StrategyConfig) -> None:
    if config.estimator.type == "gae":
        if config.prior.type not in ("critic", "custom") or config.fusion.type != "prior_only":
            raise ValueError(
                f"estimator: 'gae' needs token values, got prior {config.prior.type!r} under fusion "
                f"{config.fusion.type!r}; set prior to critic and fusion to prior_only"
            )
        if config.normaliser.type == "group_std":
            raise ValueError(
                "normaliser: 'group_std' under estimator 'gae'; set normaliser to batch_std or none"
            )


def _parameter(info: FieldInfo) -> Parameter:
    low = high = None
    for limit in info.metadata:
        low = next((getattr(limit, a) for a in ("ge", "gt") if getattr(limit, a, None) is not None), low)
        high = next((getattr(limit, a) for a in ("le", "lt") if getattr(limit, a, None) is not None), high)
    annotation: Any = info.annotation
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    choices = tuple(arg for kind in kinds if get_origin(kind) is Literal for arg in get_args(kind))
    plain = next((kind for kind in kinds if isinstance(kind, type) and kind is not NoneType), str)
    return Parameter(plain.__name__, info.default, (low, high), choices)


def _preset_label(name: str, settings: Mapping[str, Any]) -> str:
    known = preset_parameters(name)
    shown: dict[str, Any] = {}
    if "group_size" in known:
        shown["k"] = settings.get("group_size", known["group_size"].default)
    shown |= {k: v for k, v in settings.items() if k != "group_size"}
    return f"{name}({','.join(f'{k}={_short(v)}' for k, v in shown.items())})"


def _member_label(member: BaseModel) -> str:
    """Type, and what differs from its defaults; group sizes always."""
    kind = str(getattr(member, "type", ""))
    if isinstance(member, axes.Custom):
        return member.path.partition(":")[2]
    notes = []
    if isinstance(member, axes.Sequential):
        notes.append(f"{member.k_min}-{member.k_max}")
    elif hasattr(member, "group_size"):
        notes.append(f"{member.group_size}")
    for field, info in type(member).model_fields.items():
        value = getattr(member, field)
        if value != info.default and field not in ("type", "group_size", "k_min", "k_max"):
            notes.append(field if value is True else f"{field}={_short(value)}")
    return f"{kind}({','.join(notes)})" if notes else kind


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, WarmupConfig):
        return f"{value.updates}"
    if isinstance(value, BaseModel):
        return _member_label(value)
    if isinstance(value, Mapping):
        return str(value.get("type", value.get("updates", "...")))
    return str(value)


WarmupConfig.model_rebuild()
StrategyConfig.model_rebuild()
