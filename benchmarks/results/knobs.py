"""Which knob matters, and whether a shorter run ranks configurations alike: from 200 random ones."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.results.claims import Beds
from benchmarks.results.run import HOME
from trimtab.decide.compare.read import TrackedRun
from trimtab.decide.compare.statistics import Array, Curve, area
from trimtab.search.study import read_study
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepspec.space.suggest import STRATEGY

if TYPE_CHECKING:
    import optuna

    from benchmarks.results.page import Page

DRAWS = 30
"""Bootstrap samples of the trials, for the intervals of importances."""
RESAMPLES = 1000
SHARES = (0.25, 0.5, 0.75)


def importance(page: Page, beds: Beds) -> None:
    """Write the section on the importance of parameters."""
    found = beds["importance"].comparison
    page.say(
        "Which knob matters",
        "fANOVA (Hutter et al. 2014, Optuna's) over random configurations of each strategy of `across_axes`, "
        f"the learning rate drawn from 5e-5 to 1.6e-3, with one seed and {found.budget:,} rollouts each. The "
        "value is accuracy over the curve. In brackets: 5 % to 95 % over bootstrap samples of the trials.",
    )
    families: dict[str, list[optuna.trial.FrozenTrial]] = {}
    for trial in _finished("results-importance"):
        families.setdefault(str(trial.params[STRATEGY]), []).append(trial)
    groups = {"all": _across(families), **{name: _within(name, own) for name, own in families.items()}}
    page.table(
        ("strategy", "parameter", "share of the variance"),
        [
            [group, parameter, f"{value:.2f} [{low:.2f}, {high:.2f}]"]
            for group, members in groups.items()
            for parameter, (value, low, high) in _importances(members).items()
        ],
    )
    page.table(
        ("strategy", "trials", "best", "median", "worst", "best configuration"),
        [_spread(family, groups[family]) for family in families],
    )


def fidelity(page: Page, beds: Beds) -> None:
    """Write the section on whether fewer steps rank configurations alike."""
    runs = [run for run in beds["importance"].searched.runs if run.status == "finished"]
    whole = [_score(run, 1.0) for run in runs]
    best = np.argsort(whole)[-len(runs) // 4 :]
    page.say(
        "Fewer steps as fidelity",
        "Spearman's rank correlation between accuracy over a share of the run and over the whole of it, "
        f"{len(runs)} configurations of one seed, with a 95 % bootstrap interval. A share of the run is a "
        "part of the whole, so that some correlation is certain.",
    )
    rows = []
    for share in SHARES:
        part = [_score(run, share) for run in runs]
        rows.append(
            [
                f"{share:.0%} of the rollouts",
                _spearman(np.array(part), np.array(whole)),
                _spearman(np.array(part)[best], np.array(whole)[best]),
            ]
        )
    page.table(("fidelity", "all configurations", "the best quarter"), rows)


def _finished(sweep: str) -> list[optuna.trial.FrozenTrial]:
    import optuna

    folder = SweepDir.existing(HOME, sweep)
    study = read_study(folder.spec(), sweep, folder.path)
    states = (optuna.trial.TrialState.COMPLETE,)
    # The reference is a study of its own.
    return study.get_trials(deepcopy=False, states=states)


def _across(families: Mapping[str, Sequence[optuna.trial.FrozenTrial]]) -> list[optuna.trial.FrozenTrial]:
    """Return all trials by what they have in common: their strategy, and the shared settings."""
    every = [_renamed(trial, name) for name, own in families.items() for trial in own]
    common = {STRATEGY}.union(set.intersection(*(set(trial.params) for trial in every)))
    return _over_one_range(every, common)


def _within(family: str, trials: Sequence[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
    """Return the trials of one strategy by its own parameters."""
    own = [_renamed(trial, family) for trial in trials]
    return _over_one_range(own, set(own[0].params) - {STRATEGY})


def _renamed(trial: optuna.trial.FrozenTrial, family: str) -> optuna.trial.FrozenTrial:
    """Return a trial without its strategy's name before each parameter."""
    import optuna

    return optuna.trial.create_trial(
        params={name.removeprefix(f"{family}."): value for name, value in trial.params.items()},
        distributions={name.removeprefix(f"{family}."): own for name, own in trial.distributions.items()},
        value=trial.value,
    )


def _over_one_range(
    trials: Sequence[optuna.trial.FrozenTrial], names: Collection[str]
) -> list[optuna.trial.FrozenTrial]:
    """Return the trials with these parameters, each over one range: Optuna leaves out those that vary.

    A range whose bound follows another parameter becomes the one that holds all of them.
    """
    import optuna

    ranges: dict[str, optuna.distributions.BaseDistribution] = {}
    for name in sorted(names):
        drawn = [trial.distributions[name] for trial in trials]
        ranges[name] = drawn[0]
        if isinstance(drawn[0], optuna.distributions.IntDistribution):
            ends = [(one.low, one.high) for one in drawn if isinstance(one, type(drawn[0]))]
            low, high = min(end[0] for end in ends), max(end[1] for end in ends)
            ranges[name] = optuna.distributions.IntDistribution(low, high)
    return [
        optuna.trial.create_trial(
            params={name: trial.params[name] for name in ranges}, distributions=ranges, value=trial.value
        )
        for trial in trials
    ]


def _importances(trials: Sequence[optuna.trial.FrozenTrial]) -> Mapping[str, tuple[float, float, float]]:
    """Return each parameter's share with its bootstrap interval, the largest first."""
    value = _fanova(trials)
    rng = np.random.default_rng(0)
    drawn = [_fanova([trials[n] for n in rng.integers(0, len(trials), len(trials))]) for _ in range(DRAWS)]
    found = {}
    for parameter in sorted(value, key=lambda name: -value[name]):
        low, high = np.quantile([one.get(parameter, 0.0) for one in drawn], (0.05, 0.95))
        found[parameter] = (value[parameter], float(low), float(high))
    return found


def _fanova(trials: Sequence[optuna.trial.FrozenTrial]) -> dict[str, float]:
    import optuna

    study = optuna.create_study(direction="maximize")
    study.add_trials(list(trials))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _spread(family: str, trials: Sequence[optuna.trial.FrozenTrial]) -> list[str]:
    values = [trial.value for trial in trials if trial.value is not None]
    best = max(trials, key=lambda trial: trial.value or 0.0)
    shown = {n: float(f"{v:.3g}") if isinstance(v, float) else v for n, v in best.params.items()}
    cells = [f"{max(values):.3f}", f"{np.median(values):.3f}", f"{min(values):.3f}"]
    return [family, str(len(values)), *cells, f"`{json.dumps(shown)}`"]


def _score(run: TrackedRun, share: float) -> float:
    curve: Curve = run.curve
    return area(curve, float(curve.compute_E[0]), share * float(curve.compute_E[-1]))


def _spearman(part: Array, whole: Array) -> str:
    from scipy import stats

    def statistic(a: Array, b: Array) -> float:
        return float(stats.spearmanr(a, b).statistic)

    rng = np.random.default_rng(0)
    picks = (rng.integers(0, len(whole), len(whole)) for _ in range(RESAMPLES))
    low, high = np.quantile([statistic(part[pick], whole[pick]) for pick in picks], (0.025, 0.975))
    return f"{statistic(part, whole):.2f} [{low:.2f}, {high:.2f}]"
