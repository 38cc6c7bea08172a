"""What a spec names by import path, imported before a sweep starts. Nothing is built."""

from __future__ import annotations

import inspect
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainables.strategies.members.base import Custom
from trainables.strategies.wording import did_you_mean
from trimtab.errors import SpecError
from trimtab.sweepspec.space.check import Space, corners
from trimtab.sweepspec.space.ranges import Choice

if TYPE_CHECKING:
    from trainables.strategies.config import StrategyConfig
    from trimtab.sweepspec.spec import Searched, SweepSpec

IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def check_own_strategies(spec: SweepSpec, searched: Searched, where: str) -> None:
    """Refuse the user's own strategies and axes that cannot run.

    Raises:
        SpecError: one cannot be imported, is of another kind, or cannot be built from its `params`.
    """
    strategies = (spec.config_of(searched, point).strategy for point in _points(spec.space_of(searched)))
    check_own_members(strategies, where)


def check_own_members(strategies: Iterable[StrategyConfig], where: str) -> None:
    """Check each import path of these strategies once, as `check_own_strategies` does."""
    checked: list[tuple[str, str, Mapping[str, Any]]] = []
    for strategy in strategies:
        for own in _import_paths(strategy):
            if own not in checked:
                checked.append(own)
                axis, path, params = own
                _check_member(path, axis, params, f"{where}.strategy{axis and '.'}{axis}")


def _points(space: Space) -> Iterator[Mapping[str, Any]]:
    """Yield values of the searched parameters that between them hold every import path of the space."""
    every = any(
        isinstance(value, str) and ":" in value
        for range_ in space.ranges.values()
        if isinstance(range_, Choice)
        for value in range_.choice
    )
    for point in corners(space):
        yield point
        if not every:
            return


def _import_paths(strategy: StrategyConfig, inside: str = "") -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield (axis, import path, parameters) of what is the user's own; a whole strategy has no axis."""
    if strategy.custom is not None:
        yield inside.removesuffix("."), strategy.custom, strategy.params
        return
    for axis, member in strategy:
        if isinstance(member, Custom):
            yield f"{inside}{axis}", member.path, member.params
    if strategy.warmup is not None:
        yield from _import_paths(strategy.warmup.strategy, f"{inside}warmup.strategy.")


def _check_member(path: str, axis: str, params: Mapping[str, Any], field: str) -> None:
    found = imported(path, field)
    kind = _kind(axis.rpartition(".")[2])
    # What a factory makes is known only when it is called.
    if isinstance(found, type):
        if not issubclass(found, kind):
            raise SpecError(
                f"{field}: {path!r} is a class, but not a {kind.__name__}; docs/strategies.md names the "
                "methods it needs"
            )
        missing = sorted(getattr(found, "__abstractmethods__", ()))
        if missing:
            raise SpecError(f"{field}: {path!r} lacks {', '.join(missing)}; see docs/strategies.md")
    try:
        signature = inspect.signature(found)
    except ValueError:
        return  # written in C: it does not say
    try:
        signature.bind(**params)
    except TypeError as error:
        raise SpecError(
            f"{field}: {path!r} cannot be built from params {dict(params)!r}: {error}; its parameters are "
            f"{signature}"
        ) from None


def _kind(axis: str) -> type:
    from trainables.strategies.budget.base import Budget
    from trainables.strategies.fusion.base import Fusion
    from trainables.strategies.normalisers import Normaliser
    from trainables.strategies.priors.base import Prior
    from trainables.strategies.protocol import Strategy

    kinds: dict[str, type] = {"prior": Prior, "fusion": Fusion, "budget": Budget, "normaliser": Normaliser}
    return kinds.get(axis, Strategy)


def imported(path: str, field: str) -> Any:
    """Return the callable at `package.module:name`.

    Raises:
        SpecError: the module cannot be imported or holds no such callable; the message says what Python said.
    """
    module_name, _, name = path.partition(":")
    try:
        found = pkgutil.resolve_name(path)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        own = f"{module_name}.".startswith(f"{missing}.")
        if missing.startswith(("trainables.", "trimtab.")):
            what = f"trimtab has no module {missing!r}" if own else f"it imports {missing!r}, which is gone"
            raise SpecError(
                f"{field}: {path!r}: {what}; CHANGELOG.md says where each module and name went"
            ) from None
        what = (
            f"Python finds no module {missing!r}" if own else f"it needs {missing!r}, which is not installed"
        )
        raise SpecError(
            f"{field}: {path!r}: {what}; install the package, or put its directory on PYTHONPATH"
        ) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's module may raise anything
        module = sys.modules.get(module_name)
        if module is None or not isinstance(error, AttributeError) or error.obj is not module:
            raise SpecError(
                f"{field}: {path!r}: importing {module_name!r} raised {type(error).__name__}: {error}; fix "
                "the module"
            ) from None
        hint = did_you_mean(name, [key for key in dir(module) if not key.startswith("_")])
        raise SpecError(
            f"{field}: {path!r}: module {module_name!r} has no class {name!r}; {hint or 'check the spelling'}"
        ) from None
    if not callable(found):
        raise SpecError(
            f"{field}: {path!r} is not a class but the {type(found).__name__} {found!r}; name a class"
        )
    return found
