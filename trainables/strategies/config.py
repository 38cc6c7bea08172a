"""What a user may write under `strategy:`, checked before anything starts.

Four forms, all resolved to one `StrategyConfig`:

    strategy: dapo                                              a preset
    strategy: {preset: v05, group_size: 4, alpha: 0.1}          a preset with its parameters (and other axes)
    strategy: {prior: strata, fusion: {type: tested, alpha: 0.1}, budget: {type: sequential, k_max: 16}}
    strategy: mypkg.mine:Baseline                               your own class (or {custom: ..., params: ...})
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from trainables.errors import SpecError, StrategyError
from trainables.strategies.budget.base import Budget
from trainables.strategies.budget.fixed import Fixed
from trainables.strategies.composed import Composed
from trainables.strategies.estimators.base import Estimator
from trainables.strategies.estimators.monte_carlo import MonteCarlo
from trainables.strategies.fusion.base import Fusion
from trainables.strategies.fusion.group_mean import GroupMean
from trainables.strategies.members.base import Custom, Member, OneOf, build_own, label, short
from trainables.strategies.members.tables import (
    BUDGETS,
    ESTIMATORS,
    FUSIONS,
    NORMALISERS,
    PRIORS,
    TABLES,
)
from trainables.strategies.normalisers import NoNormaliser, Normaliser
from trainables.strategies.presets.base import Preset
from trainables.strategies.presets.table import PRESETS
from trainables.strategies.priors.base import Prior, PriorMember
from trainables.strategies.priors.none import NoPrior
from trainables.strategies.priors.probe import OWN_STATES
from trainables.strategies.protocol import Strategy
from trainables.strategies.scale import Scale
from trainables.strategies.warmup import Warmup
from trainables.strategies.wording import did_you_mean, explain

IMPORT_PATH = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
COMMON = ("prior", "fusion", "budget", "estimator", "normaliser", "weighting", "reward_range", "warmup")
"""Keys that may stand beside a preset's own parameters."""

ROUNDS = 16
"""Rounds of sampling that every strategy may take in one step, one of your own included."""


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
    prior: Annotated[Member, OneOf(PRIORS)] = NoPrior()
    fusion: Annotated[Member, OneOf(FUSIONS)] = GroupMean()
    budget: Annotated[Member, OneOf(BUDGETS)] = Fixed()
    estimator: Annotated[Member, OneOf(ESTIMATORS)] = MonteCarlo()
    normaliser: Annotated[Member, OneOf(NORMALISERS)] = NoNormaliser()
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
            for member in (self.fusion, self.prior, self.estimator, self.budget, self.normaliser):
                member.check(self)
        elif self.warmup is not None:
            raise ValueError("warmup: not available beside `custom`; wrap inside your own class")
        if self.params and self.custom is None:
            raise ValueError("params: belongs to `custom`; write a preset's parameters flat beside `preset`")
        if self.name:
            _check_name(self)
        return self

    def build(self, prior: Prior | None = None, penalty: float = 0.0) -> Strategy:
        """Make the strategy run, before any evidence.

        `prior` replaces the configured one (stubs in tests, a learned prior that a caller built itself).
        `penalty` is the most that shaping takes off a reward, in reward units.

        Raises:
            StrategyError: an import path does not lead to what its place needs.
        """
        if self.custom is not None:
            own: Strategy = build_own("custom", self.custom, self.params, Strategy)
            return own
        scale = Scale(*self.reward_range, penalty)
        fusion: Fusion = self.fusion.running("fusion", Fusion)
        made = self._prior(scale) if prior is None else prior
        if made.reads_own and isinstance(self.fusion, Custom) and not fusion.leaves_out:
            raise StrategyError(f"strategy.fusion: {self.fusion.path!r} {OWN_STATES}; set its `leaves_out`")
        main = Composed(
            prior=made,
            fusion=fusion,
            budget=self.budget.running("budget", Budget),
            estimator=self.estimator.running("estimator", Estimator),
            normaliser=self.normaliser.running("normaliser", Normaliser),
            weighting=self.weighting,
            scale=scale,
        )
        if self.warmup is None:
            return main
        return Warmup(self.warmup, self.warmup.strategy.build(penalty=penalty), main)

    def _prior(self, scale: Scale) -> Prior:
        """Start the prior; one of the user's own brings its own scale."""
        if isinstance(self.prior, PriorMember):
            return self.prior.begin(scale)
        own: Prior = self.prior.running("prior", Prior)
        return own

    def min_rollouts(self) -> int:
        """Return how many rollouts a single prompt needs at least, greedy ones included."""
        if self.custom is not None:
            return 1
        own = self.budget.least() if isinstance(self.budget, Budget) else 1
        if isinstance(self.prior, PriorMember):
            own += self.prior.extra_rollouts
        return max(own, self.warmup.strategy.min_rollouts() if self.warmup else 0)

    def rounds(self) -> int:
        """Return the rounds of sampling that one step may take: every cap of the budget can be reached."""
        need = self.budget.rounds() if self.custom is None and isinstance(self.budget, Budget) else 1
        later = self.warmup.strategy.rounds() if self.warmup is not None else 1
        return max(ROUNDS, need, later)

    def label(self) -> str:
        """Return a short name: `v05(k=4,alpha=0.1)`, `strata+tested(alpha=0.1)+sequential(4-16)`."""
        if self.custom is not None:
            return self.custom.partition(":")[2]
        if self.name:
            return _preset_label(self.name, self.settings)
        parts = [label(m) for m in (self.prior, self.fusion, self.budget, self.normaliser)]
        return "+".join(p for p in parts if p != "none")


def parse_strategy(value: object) -> StrategyConfig:
    """Resolve what a user wrote.

    Raises:
        SpecError: it cannot be a strategy; the message names the field, the value and the fix.
    """
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
    """Return all presets, in the order of the documentation."""
    return tuple(PRESETS)


def preset_parameters(name: str) -> dict[str, Parameter]:
    """Return a preset's own parameters: what a search space may range over.

    Raises:
        SpecError: there is no such preset.
    """
    return {field: _parameter(info) for field, info in _preset(name).model_fields.items()}


def _preset(name: object) -> type[Preset]:
    if not isinstance(name, str) or name not in PRESETS:
        raise SpecError(
            f"strategy.preset: {name!r} is unknown; {did_you_mean(name, PRESETS)}choose one of "
            f"{', '.join(PRESETS)}"
        )
    return PRESETS[name]


def _open_preset(name: object, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the axes of a preset, with the axes written beside it put in place."""
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
    """Refuse a name that lies: the same preset with the same settings gives these axes."""
    values, fields = dict(config), _open_preset(config.name, config.settings)
    for axis in COMMON:
        if axis not in fields:
            expected = StrategyConfig.model_fields[axis].default
        else:
            expected = _coerce(axis, fields[axis])
        if values[axis] != expected:
            raise ValueError(
                f"{axis}: differs from what preset {config.name!r} stands for; remove `name` and `settings`, "
                f"or write {{preset: {config.name}, {axis}: ...}}"
            )


def _coerce(axis: str, value: object) -> object:
    """Turn a shorthand into what it stands for, without checking it beside the other axes."""
    return SHORTHANDS[axis].validate_python(value) if axis in SHORTHANDS else value


def _check_range(reward_range: tuple[float, float]) -> None:
    low, high = reward_range
    if not low < high or high - low == float("inf"):
        raise ValueError(f"reward_range: [{low}, {high}] is empty or unbounded; write [lowest, highest]")


def _check_group(config: StrategyConfig) -> None:
    """Refuse a group of one where the group judges itself: every advantage would be 0 (or undefined)."""
    fusion, budget, normaliser = config.fusion, config.budget, config.normaliser
    if not isinstance(budget, Budget) or budget.first_round() >= 2:
        return
    if isinstance(normaliser, Normaliser) and normaliser.needs_pair:
        reason = normaliser.type
    elif isinstance(fusion, Fusion) and fusion.needs_pair:
        reason = fusion.type
    else:
        return
    field = "k_min" if "k_min" in dict(budget) else "group_size"
    raise ValueError(
        f"budget.{field}: {budget.first_round()} gives a group of one under {reason!r}, whose advantage is "
        f"always 0; raise {field} to at least 2 or choose a fusion that reads a prior"
    )


def _check_prior(config: StrategyConfig) -> None:
    prior, fusion, budget = config.prior, config.fusion, config.budget
    for axis, member, needy in (
        ("fusion", fusion, isinstance(fusion, Fusion) and fusion.mixes_prior),
        ("budget", budget, isinstance(budget, Budget) and (budget.reads_prior or budget.foresight)),
    ):
        if needy and prior.type == "none":
            raise ValueError(
                f"prior: none, but {axis} {member.type!r} mixes in a prior; set prior to strata, tracker, "
                f"global or your own"
            )
    silent = isinstance(prior, PriorMember) and not prior.foresight
    if isinstance(budget, Budget) and budget.foresight and silent:
        choices = [
            name for name, kind in PRIORS.items() if not issubclass(kind, PriorMember) or kind.foresight
        ]
        raise ValueError(
            f"prior: {prior.type!r} speaks only after sampling, but budget {budget.type!r} chooses by it "
            f"beforehand; set prior to one of {', '.join(choices)}"
        )


def _parameter(info: FieldInfo) -> Parameter:
    low: Any = None
    high: Any = None
    for limit in info.metadata:
        match limit:
            case Ge(ge=bound) | Gt(gt=bound):
                low = bound
            case Le(le=bound) | Lt(lt=bound):
                high = bound
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


def _short(value: object) -> str:
    return f"{value.updates}" if isinstance(value, WarmupConfig) else short(value)


WarmupConfig.model_rebuild()
StrategyConfig.model_rebuild()

# Built once: a schema takes longer to build than a strategy to resolve.
SHORTHANDS: dict[str, TypeAdapter[Any]] = {
    **{axis: TypeAdapter(Annotated[Member, OneOf(table)]) for axis, table in TABLES.items()},
    "reward_range": TypeAdapter(tuple[float, float]),
    "warmup": TypeAdapter(WarmupConfig | None),
}
