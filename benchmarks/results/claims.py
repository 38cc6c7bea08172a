"""What the papers claim, and what the runs say about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Literal

from benchmarks.results.data import LATE, Bed, curve_difference, difference, final, mean_interval
from trimtab.decide.compare.statistics import Interval

Beds = Mapping[str, Bed]
Found = Literal["reproduced", "not reproduced", "cannot be seen here", "not measured"]


@dataclass(frozen=True)
class Range:
    """A measured number and its 95 % interval."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(interval: Interval | None) -> Range | None:
        return None if interval is None else Range(interval.mean, interval.low, interval.high)


@dataclass(frozen=True)
class Claim:
    """A published claim as a region in which a number must lie."""

    source: str
    text: str
    number: str
    """What is measured."""
    region: tuple[float, float]
    measure: Callable[[Beds], Range | None]

    def judge(self, found: Range | None) -> Found:
        """Judge by the whole interval: inside the region, outside of it, or across its end."""
        low, high = self.region
        if found is None:
            return "not measured"
        if low <= found.low and found.high <= high:
            return "reproduced"
        if found.high < low or found.low > high:
            return "not reproduced"
        return "cannot be seen here"


def _final(bed: str, own: str, other: str) -> Callable[[Beds], Range | None]:
    return lambda beds: Range.of(difference(beds[bed].arms[own], beds[bed].arms[other], final))


def _curve(bed: str, own: str, other: str) -> Callable[[Beds], Range | None]:
    return lambda beds: Range.of(curve_difference(beds[bed].arms[own], beds[bed].arms[other]))


def _metric(
    bed: str, own: str, other: str, metric: str, since: float = 0.0
) -> Callable[[Beds], Range | None]:
    def measure(beds: Beds) -> Range | None:
        one = beds[bed]
        return Range.of(difference(one.arms[own], one.arms[other], one.mean_of(metric, since)))

    return measure


def _ratio(bed: str, own: str, other: str) -> Callable[[Beds], Range | None]:
    def measure(beds: Beds) -> Range | None:
        found = beds[bed].against(other)
        trial = beds[bed].arms[own].runs[0].trial
        ratio = next(row.ratio for row in found.rows if row.trial == trial)
        if ratio is None or ratio.low is None or ratio.high is None:
            return None
        # Where runs of one side never reach the level, one end of the interval is not known.
        low = 0.0 if ratio.bound in ("<", "?") else ratio.low
        return Range(ratio.value, low, inf if ratio.bound in (">", "?") else ratio.high)

    return measure


def _hard(beds: Beds) -> Range | None:
    bed = beds["addition"]
    return Range.of(difference(bed.arms["v0"], bed.arms["grpo16"], bed.hard_rate))


def _variance(beds: Beds) -> Range | None:
    bed = beds["addition"]
    # After the warm-up, in which its advantages are those of leave-one-out.
    measure = bed.mean_of("strategy/adv_var_over_reward_var", since=0.25)
    return Range.of(mean_interval(bed.arms["poise2"], measure))


ABOVE, BELOW = (0.0, inf), (-inf, 0.0)
V05, V0, POISE = "V0.5 (2603.10848)", "V0 (2602.03584)", "POISE (2605.07579)"
CLAIMS = (
    Claim(V05, "ends above GRPO-16", "final accuracy, addition", ABOVE, _final("addition", "v05", "grpo16")),
    Claim(V05, "ends above GRPO-16", "final accuracy, sorting", ABOVE, _final("sorting", "v05", "grpo16")),
    Claim(V05, "ends above DAPO-16", "final accuracy, addition", ABOVE, _final("addition", "v05", "dapo16")),
    Claim(V05, "ends above DAPO-16", "final accuracy, sorting", ABOVE, _final("sorting", "v05", "dapo16")),
    Claim(
        V05, "needs about half of GRPO-16's compute for its final level", "ratio of rollouts, addition",
        (0.0, 0.6), _ratio("addition", "v05", "grpo16"),
    ),
    Claim(
        V05, "needs about half of GRPO-16's compute for its final level", "ratio of rollouts, sorting",
        (0.0, 0.6), _ratio("sorting", "v05", "grpo16"),
    ),
    Claim(
        V05, "lower gradient norm than GRPO-16", "mean gradient norm", BELOW,
        _metric("addition", "v05", "grpo16", "train/gradient_norm"),
    ),
    Claim(
        V05, "entropy decays more slowly than GRPO-16's", "entropy of the last third, nats", ABOVE,
        _metric("addition", "v05", "grpo16", "train/entropy", LATE),
    ),
    Claim(V05, "8 rollouts beat GRPO-16 at equal compute", "accuracy over the curve", ABOVE,
          _curve("addition", "fixed8", "grpo16")),
    Claim(V05, "4 rollouts beat GRPO-16 at equal compute", "accuracy over the curve", ABOVE,
          _curve("addition", "fixed4", "grpo16")),
    Claim(V05, "2 rollouts do not converge", "accuracy over the curve", BELOW,
          _curve("addition", "fixed2", "grpo16")),
    Claim(V05, "1 rollout does not converge", "accuracy over the curve", BELOW,
          _curve("addition", "fixed1", "grpo16")),
    Claim(POISE, "2 rollouts end level with DAPO-8", "final accuracy, at most .02 below", (-0.02, inf),
          _final("addition", "poise2", "dapo8")),
    Claim(POISE, "reaches DAPO-8's level with 25 % less", "ratio of rollouts", (0.0, 0.8),
          _ratio("addition", "poise2", "dapo8")),
    Claim(POISE, "lower gradient norm than DAPO-8", "mean gradient norm", BELOW,
          _metric("addition", "poise2", "dapo8", "train/gradient_norm")),
    Claim(POISE, "Var(A)/Var(R) is about .7", "Var(A)/Var(R)", (0.6, 0.8), _variance),
    Claim(V0, "ends above GRPO-16 at equal compute", "final accuracy", ABOVE,
          _final("addition", "v0", "grpo16")),
    Claim(V0, "hard prompts gain more than under a uniform budget", "late pass rate of hard prompts", ABOVE,
          _hard),
)  # fmt: skip
