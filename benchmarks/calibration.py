"""Measure how often the comparison's verdict is wrong, and how many seeds it needs.

`make bench BENCH=calibration` prints the tables of `docs/compare.md`. After a new sweep of `dapo_seeds.yaml`:
`make bench BENCH=calibration ARGS="--collect .trimtab dapo-seeds"`.

The process. `data/dapo_seeds.json` holds real curves of the quickstart: 20 seeds of DAPO, and V0.5 under the
same 20 seeds (`dapo_seeds.yaml`). A simulated run is DAPO's mean curve plus Gaussian noise. The noise has the
covariance over evaluations of the DAPO seeds, not shrunk: shrinkage would make areas less noisy than they
are. Two configurations under one seed share prompts and evaluation draws. Each one's own noise is half the
covariance of their difference; the rest is common. There are three processes: `paired`; `upper`, with the own
noise at the upper end of the 80 % interval for its size by 20 seeds; and `unpaired`, where all noise is own
noise, as if seeds shared nothing.

The method. A candidate is DAPO itself (null), or it saves 20 % of the rollouts: it has the value that DAPO
has at 1.25 times the compute, where a fitted a - b exp(-x / c) extends DAPO's curve. In the search, 20 null
configurations run 3 seeds each, and the one with the best area is taken. It and the reference then run N
fresh seeds, and the two-sided t test of `trimtab compare` decides at 5 %. "Found" means that one of the 20
does save 20 %, the search picks it, and its confirmation says so. For contrast, the tables also show two
wrong methods: to trust the search's winner without a confirmation, and a percentile bootstrap.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from trimtab.sweepdir.journal import Tail

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
DATA = Path(__file__).parent / "data" / "dapo_seeds.json"
EVALUATIONS = 5
"""At the start and after every ten steps, as in the quickstart."""
SEARCHED = 20
SEARCH_SEEDS = 3
SEEDS = (3, 4, 5, 6, 8, 10, 12, 16, 20, 30, 40)
LEVEL = 0.05
SAVING = 0.20


@dataclass(frozen=True)
class Process:
    """Curves of E evaluations at equal distances."""

    compute_E: Array
    mean_E: Array
    saving_E: Array
    """Mean curve of a method that needs 20 % fewer rollouts for each accuracy."""
    common_EE: Array
    """Factor (square root) of the noise that configurations share under one seed."""
    own_EE: Array

    def areas(
        self, mean_E: Array, own_shape: tuple[int, ...], common_S: Array, rng: np.random.Generator
    ) -> Array:
        """Draw the areas of runs, (..., S), whose common noise has the areas `common_S`."""
        weight_E = self.weights()
        noise = rng.standard_normal((*own_shape, len(mean_E))) @ (self.own_EE.T @ weight_E)
        return weight_E @ mean_E + noise + common_S

    def common(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Draw the areas of the common noise of seeds."""
        return rng.standard_normal((*shape, len(self.mean_E))) @ (self.common_EE.T @ self.weights())

    def weights(self) -> Array:
        """Return the weight of each evaluation in an area (trapezoidal rule), (E,)."""
        steps = np.diff(self.compute_E)
        weight_E = np.zeros(len(self.compute_E))
        weight_E[:-1] += steps / 2
        weight_E[1:] += steps / 2
        return weight_E / (self.compute_E[-1] - self.compute_E[0])


def fit(kind: str) -> Process:
    """Fit one of the module's processes: `paired`, `upper` or `unpaired`."""
    curves = json.loads(DATA.read_text())
    end = min(points[-1][0] for seeds in curves.values() for points in seeds.values())
    compute_E = np.linspace(0, end, EVALUATIONS)
    dapo_SE, other_SE = (
        np.array([np.interp(compute_E, *np.array(points).T) for points in curves[name].values()])
        for name in ("dapo", "v05")
    )
    whole_EE = np.cov(dapo_SE, rowvar=False)
    own_EE = whole_EE
    if kind != "unpaired":
        own_EE = np.cov(other_SE - dapo_SE, rowvar=False) / 2
    if kind == "upper":
        freedom = len(dapo_SE) - 1
        own_EE = own_EE * freedom / stats.chi2.ppf(0.1, freedom)
    mean_E = dapo_SE.mean(axis=0)
    return Process(compute_E, mean_E, _faster(compute_E, mean_E), _root(whole_EE - own_EE), _root(own_EE))


def _faster(compute_E: Array, mean_E: Array) -> Array:
    def curve(x: Array, a: float, b: float, c: float) -> Array:
        return a - b * np.exp(-x / c)

    start = (mean_E[-1], mean_E[-1] - mean_E[0], compute_E[-1] / 3)
    parameters, _ = optimize.curve_fit(curve, compute_E, mean_E, start)
    wanted_E = compute_E / (1 - SAVING)
    inside = wanted_E <= compute_E[-1]
    beyond_E = mean_E[-1] + curve(wanted_E, *parameters) - curve(compute_E[-1:], *parameters)
    return np.where(inside, np.interp(wanted_E, compute_E, mean_E), beyond_E)


def _root(covariance: Array) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.clip(values, 0, None))


def differences(process: Process, mean_E: Array, seeds: int, repeats: int, rng: np.random.Generator) -> Array:
    """Draw (repeats, seeds) paired differences between a candidate with this mean curve and the reference."""
    common = process.common((repeats, seeds), rng)
    own = process.areas(mean_E, (repeats, seeds), common, rng)
    return own - process.areas(process.mean_E, (repeats, seeds), common, rng)


def verdicts(difference_RS: Array) -> Array:
    """Return +1 (better), -1 (worse) or 0 (not established) by the comparison's t test, (repeats,)."""
    p = stats.ttest_1samp(difference_RS, 0, axis=1).pvalue
    return np.where(p <= LEVEL, np.sign(difference_RS.mean(axis=1)), 0)


def bootstrap_better(difference_RS: Array, rng: np.random.Generator, draws: int = 500) -> float:
    """Return the share of repeats whose 95 % interval by a percentile bootstrap lies above 0."""
    repeats, seeds = difference_RS.shape
    found = 0
    for row in difference_RS:
        means = row[rng.integers(0, seeds, (draws, seeds))].mean(axis=1)
        found += bool(np.quantile(means, LEVEL / 2) > 0)
    return found / repeats


def search(process: Process, mean_CE: Array, repeats: int, rng: np.random.Generator) -> tuple[Index, Array]:
    """Return which of C configurations has the best area in each search, and its (repeats, 3) differences."""
    common = process.common((repeats, 1, SEARCH_SEEDS), rng)
    gain_C = (mean_CE - process.mean_E) @ process.weights()
    shape = (repeats, len(mean_CE), SEARCH_SEEDS)
    areas = process.areas(process.mean_E, shape, common, rng) + gain_C[:, None]
    reference = process.areas(process.mean_E, (repeats, SEARCH_SEEDS), common[:, 0], rng)
    best_R = areas.mean(axis=2).argmax(axis=1)
    return best_R, areas[np.arange(repeats), best_R] - reference


def confirmation(
    process: Process, mean_CE: Array, best_R: Index, seeds: int, rng: np.random.Generator
) -> Array:
    """Draw (repeats, seeds) differences of each search's winner under fresh seeds."""
    gain_C = (mean_CE - process.mean_E) @ process.weights()
    fresh = differences(process, process.mean_E, seeds, len(best_R), rng)
    return fresh + gain_C[best_R][:, None]


def table(process: Process, repeats: int, seed: int) -> list[tuple[int, float, float, float, float, float]]:
    """Return (N, false better, false verdict, bootstrap's false better, power, found) for each N seeds."""
    rng = np.random.default_rng(seed)
    null_CE = np.tile(process.mean_E, (SEARCHED, 1))
    one_CE = np.vstack([process.saving_E, null_CE[1:]])
    best_of_null, _ = search(process, null_CE, repeats, rng)
    best_of_one, _ = search(process, one_CE, repeats, rng)
    rows = []
    for seeds in SEEDS:
        null = confirmation(process, null_CE, best_of_null, seeds, rng)
        false = verdicts(null)
        power = (verdicts(differences(process, process.saving_E, seeds, repeats, rng)) > 0).mean()
        boot = bootstrap_better(null[: repeats // 4], rng)
        better = verdicts(confirmation(process, one_CE, best_of_one, seeds, rng)) > 0
        found = (better & (best_of_one == 0)).mean()
        rows.append((seeds, (false > 0).mean(), (false != 0).mean(), boot, power, found))
    return rows


def detectable(sd: float, seeds: int, power: float = 0.8) -> float:
    """Return the gain that the two-sided paired t test finds with this power, for a difference of this sd."""
    limit = stats.t.isf(LEVEL / 2, seeds - 1)

    def missing(gain: float) -> float:
        return float(stats.nct.sf(limit, seeds - 1, gain / sd * np.sqrt(seeds))) - power

    return float(optimize.brentq(missing, 0.0, 10 * sd))


def collect(home: Path, sweep: str) -> None:
    """Write the curves of a finished sweep of `dapo_seeds.yaml` into the data file, from its journal."""
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    labels: dict[str, str] = {}
    for event in Tail(home / "sweeps" / sweep).read():
        if event["event"] == "trial_started":
            labels[event["trial"]] = "dapo" if event["role"] == "reference" else "v05"
        elif event["event"] == "evaluation":
            runs = curves.setdefault(labels[event["trial"]], {})
            point = (event["rollouts"], round(event["metrics"]["accuracy"], 6))
            runs.setdefault(str(event["seed"]), []).append(point)
    DATA.write_text(json.dumps(curves), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--collect", nargs=2, metavar=("HOME", "SWEEP"), help="read the curves anew first")
    arguments = parser.parse_args()
    if arguments.collect:
        collect(Path(arguments.collect[0]), arguments.collect[1])
    for kind in ("paired", "upper", "unpaired"):
        process = fit(kind)
        sd = differences(process, process.mean_E, 2, 20_000, np.random.default_rng(1)).std()
        gain = process.weights() @ (process.saving_E - process.mean_E)
        null_CE = np.tile(process.mean_E, (SEARCHED, 1))
        _, won = search(process, null_CE, arguments.repeats, np.random.default_rng(arguments.seed))
        naive = (verdicts(won) > 0).mean()
        print(f"\n{kind}: sd of a paired difference {sd:.4f}, a {SAVING:.0%} saving is worth {gain:+.4f}")
        print(f"best of {SEARCHED} null configurations 'better' in its own search: {naive:.1%}")
        found = ", ".join(f"{seeds} seeds {detectable(sd, seeds):+.3f}" for seeds in (5, 8, 16))
        print(f"found with a power of 80 %: {found}")
        print(
            "| seeds | false better | false verdict | bootstrap: false better | power, 20 % saving | found |"
        )
        print("|---|---|---|---|---|---|")
        for seeds, *shares in table(process, arguments.repeats, arguments.seed):
            print(f"| {seeds} | " + " | ".join(f"{share:.1%}" for share in shares) + " |")


if __name__ == "__main__":
    main()
