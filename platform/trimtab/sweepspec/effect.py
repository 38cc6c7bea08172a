"""What would run and yet show nothing: a warm-up as long as the run, trials without a configuration.

Checked before a sweep starts, and not when the spec of a past one is read: what has run stays readable.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainables.strategies.suits import warmup_error
from trimtab.errors import SpecError
from trimtab.sweepspec.quotas import check_used
from trimtab.sweepspec.space.check import corners

if TYPE_CHECKING:
    from trainables.strategies.config import StrategyConfig
    from trimtab.sweepspec.spec import Searched, SweepSpec


def check_effect(spec: SweepSpec) -> None:
    """Refuse a configuration whose learned prior could never act, and trials that cannot be used.

    Raises:
        SpecError: the warm-up of a strategy, or of what its search may draw, takes the whole run; or
            `search.trials` are more than the candidates have configurations.
    """
    check_used(spec)
    for where, searched in _everybody(spec):
        for config in _extremes(spec, searched):
            if problem := warmup_error(config, spec.trial.steps):
                raise SpecError(f"{where}.strategy: {problem}")


def _everybody(spec: SweepSpec) -> Iterator[tuple[str, Searched]]:
    yield "reference", spec.reference
    for number, candidate in enumerate(spec.candidates):
        yield f"candidates.{number}", candidate


def _extremes(spec: SweepSpec, searched: Searched) -> Iterator[StrategyConfig]:
    """Yield the strategy as it is written, and at the ends of a warm-up that is searched."""
    space = spec.space_of(searched)
    if not any("warmup" in name for name in space.ranges):
        yield spec.config_of(searched, {}).strategy
        return
    for corner in corners(space):
        yield spec.config_of(searched, corner).strategy
