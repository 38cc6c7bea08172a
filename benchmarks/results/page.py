"""Writes `docs/results.md` and its figures from what has finished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

from benchmarks.results.claims import CLAIMS, Beds, Range
from benchmarks.results.data import LATE, Arm, Bed, mean_interval
from benchmarks.results.images import Drawing
from benchmarks.results.knobs import fidelity, importance
from benchmarks.results.run import SOURCES
from trimtab.decide.compare.read import TrackedRun
from trimtab.decide.compare.render import p_text
from trimtab.decide.compare.statistics import Interval
from trimtab.decide.compare.table import Row
from trimtab.decide.report import figures
from trimtab.decide.report.series import Band, accuracy_band, metric_band

IMAGES = "images/results"
HEAD = """# Results: the papers' figures at this scale

Written by `make results` ([`benchmarks/results`](../benchmarks/results)). The command goes on where
it was interrupted. It trains the shipped tiny model ([tiny-model.md](tiny-model.md)) for hours on
two cores. A model of another size or another task may say something else.

Every arm searched the same four learning rates with one seed on validation prompts. The best of
each was then trained with fresh seeds and judged on test prompts. Differences are paired by seed;
intervals are 95 % (Student's t; Fieller for ratios). Bands in the figures are one standard
deviation over seeds.
"""


class Page:
    """The page under way: text, and figures beside it."""

    def __init__(self, docs: Path, drawing: Drawing) -> None:
        self.docs, self.drawing = docs, drawing
        self.parts = [HEAD]

    def say(self, title: str, text: str = "") -> None:
        """Begin a section with a paragraph."""
        self.parts.append(f"\n## {title}\n")
        if text:
            self.parts.append(fill(text, 98) + "\n")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        lines = [head, ["---"] * len(head), *rows]
        self.parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n")

    def figure(self, name: str, title: str, figure: Any) -> None:
        self.drawing.write(figure, self.docs / IMAGES / f"{name}.svg")
        self.parts.append(f"![{title}]({IMAGES}/{name}.svg)\n")

    def write(self) -> Path:
        file = self.docs / "results.md"
        file.write_text("\n".join(self.parts), encoding="utf-8")
        return file


def write_page(beds: Beds, docs: Path, drawing: Drawing) -> Path:
    """Write the page from the beds that have finished, by name; return its file."""
    page = Page(docs, drawing)
    sections: tuple[tuple[str, Callable[[Page, Beds], None]], ...] = (
        ("addition", _claims),
        ("addition", _accuracy),
        ("goal", _goal),
        ("sorting", _sorting),
        ("addition", _noise),
        ("addition", _group_sizes),
        ("addition", _poise),
        ("addition", _allocation),
        ("oracle", _controls),
        ("sensitivity", _sensitivity),
        ("importance", importance),
        ("importance", fidelity),
    )
    for needed, section in sections:
        if needed in beds:
            section(page, beds)
    missing = [source.name for source in SOURCES if source.name not in beds]
    if missing:
        page.parts.append(f"\nNot yet run: {', '.join(missing)}.\n")
    return page.write()


def _claims(page: Page, beds: Beds) -> None:
    page.say(
        "What the papers claim",
        "*Reproduced*: the whole interval lies where the claim says. *Not reproduced*: none of it does. "
        "*Cannot be seen here*: the interval crosses the border. The intervals are read one by one, without "
        "a correction for their number.",
    )
    rows = []
    for claim in CLAIMS:
        try:
            found = claim.measure(beds)
        except KeyError:
            found = None
        rows.append([claim.source, claim.text, claim.number, _range(found), claim.judge(found)])
    page.table(("paper", "claim", "measured", "value [95 %]", "here"), rows)


def _accuracy(page: Page, beds: Beds) -> None:
    bed = beds["addition"]
    page.say("Accuracy against compute: addition", "V0.5's figure 1.")
    _curves(page, bed, "accuracy-addition", ("dapo16", "grpo16", "v05", "v05_k2", "poise2", "v0"))
    _verdicts(page, bed)


def _goal(page: Page, beds: Beds) -> None:
    page.say(
        "The best found configuration",
        "One rollout a prompt with V0.5's prior and test, at finer learning rates than above, under seeds of "
        "its own. The goal was at most .40 of DAPO-16's rollouts, with the interval's upper end below .50.",
    )
    _verdicts(page, beds["goal"])


def _sorting(page: Page, beds: Beds) -> None:
    page.say("Accuracy against compute: sorting")
    _curves(page, beds["sorting"], "accuracy-sorting", tuple(beds["sorting"].arms))
    _verdicts(page, beds["sorting"])


def _noise(page: Page, beds: Beds) -> None:
    bed = beds["addition"]
    page.say(
        "Gradient norm and entropy",
        "V0.5's figures 3 and 4. DAPO, GRPO and V0 divide advantages by the group's standard deviation and "
        "the others do not, so that the norms are not of one scale. Seconds a step are of two slots on two "
        "cores that had other work beside them.",
    )
    shown = ("dapo16", "grpo16", "v05", "poise2", "rloo4")
    for metric, name, unit in (
        ("train/gradient_norm", "gradient-norm", "gradient norm"),
        ("train/entropy", "entropy", "nats per token"),
    ):
        found = _bands(bed, shown, partial(_metric_of, bed, metric))
        page.figure(name, unit, figures.curves(found, "dapo16", "training rollouts", unit))
    measures = {
        "learning rate": None,
        "gradient norm, mean": bed.mean_of("train/gradient_norm"),
        "entropy, last third": bed.mean_of("train/entropy", LATE),
        "seconds a step": bed.mean_of("seconds/step"),
    }
    rows = [
        [arm.name, arm.settings, *(_interval(mean_interval(arm, m)) for m in measures.values() if m)]
        for arm in bed.arms.values()
    ]
    page.table(("arm", *measures), rows)


def _group_sizes(page: Page, beds: Beds) -> None:
    bed = beds["addition"]
    page.say(
        "Rollouts a prompt at constant compute",
        "V0.5's figure 5: its prior and its test at a fixed number of rollouts, against GRPO-16.",
    )
    shown = ("grpo16", "fixed8", "fixed4", "fixed2", "fixed1")
    _curves(page, bed, "group-sizes", shown, "grpo16")
    _verdicts(page, bed, "grpo16", shown)


def _poise(page: Page, beds: Beds) -> None:
    bed = beds["addition"]
    page.say(
        "POISE with two rollouts against DAPO-8",
        "The runs are too short for the released code's warm-up and order: 4 updates of leave-one-out in "
        "place of 16, and `order: standardised` ([probe.md](probe.md)).",
    )
    _verdicts(page, bed, "dapo8", ("dapo8", "poise2", "rloo2"))
    measures = {
        "gradient norm": bed.mean_of("train/gradient_norm"),
        "Var(A)/Var(R)": bed.mean_of("strategy/adv_var_over_reward_var", since=0.25),
        "seconds a step": bed.mean_of("seconds/step"),
    }
    page.table(
        ("arm", *measures),
        [
            [name, *(_interval(mean_interval(bed.arms[name], m)) for m in measures.values())]
            for name in ("dapo8", "poise2", "rloo2")
            if name in bed.arms
        ],
    )


def _allocation(page: Page, beds: Beds) -> None:
    bed = beds["addition"]
    page.say(
        "V0's allocation against a uniform budget",
        "Hard prompts are training prompts with two or more carries. Their pass rate is the mean over such "
        "prompts of the first round of rollouts in the last third of the steps.",
    )
    _curves(page, bed, "allocation", ("grpo16", "v0", "v05"), "grpo16")
    page.table(
        ("arm", "pass rate of hard prompts, last third"),
        [
            [name, _interval(mean_interval(bed.arms[name], bed.hard_rate))]
            for name in ("grpo16", "v0", "v05", "dapo16")
            if name in bed.arms
        ],
    )


def _controls(page: Page, beds: Beds) -> None:
    bed, oracle = beds["addition"], beds["oracle"]
    page.say(
        "Controls",
        "The oracle's baseline is the mean of rollouts that are not trained: 16 for two trained ones "
        "(`oracle2`), 8 for one (`oracle1`). Only trained rollouts are counted for it. It shows what a "
        "perfect prior could bring. Its prompts and seeds are those of the other arms.",
    )
    shown = [bed.arms[name] for name in ("dapo16", "v05_k2", "rloo2", "rloo4", "global1") if name in bed.arms]
    rows = [_control(arm) for arm in (*shown, *oracle.arms.values())]
    page.table(("arm", "settings", "final accuracy", "accuracy over the curve"), rows)


def _control(arm: Arm) -> list[str]:
    from trimtab.decide.compare.statistics import area, final_accuracy

    finals = mean_interval(arm, lambda run: final_accuracy(run.curve.accuracy_E))
    whole = mean_interval(
        arm, lambda run: area(run.curve, float(run.curve.compute_E[0]), float(run.curve.compute_E[-1]))
    )
    return [arm.name, arm.settings, _interval(finals), _interval(whole)]


def _sensitivity(page: Page, beds: Beds) -> None:
    bed = beds["sensitivity"]
    page.say(
        "V0.5's own parameters, one at a time",
        "The centre is two first rollouts with the prior `strata`, at the paper's rule: alpha .317, "
        "k_max 16, reserve .25, cost 1/256, at a learning rate of 4e-4. Runs on validation "
        "prompts.",
    )
    _verdicts(page, bed)


def _bands(
    bed: Bed, arms: Sequence[str], band: Callable[[Sequence[TrackedRun]], Band | None]
) -> dict[str, Band]:
    """Return the bands of those arms that were run."""
    found = {arm: band(bed.arms[arm].runs) for arm in arms if arm in bed.arms}
    return {arm: one for arm, one in found.items() if one is not None}


def _metric_of(bed: Bed, metric: str, runs: Sequence[TrackedRun]) -> Band | None:
    return metric_band(bed.client, runs, metric, "rollouts")


def _curves(page: Page, bed: Bed, name: str, arms: Sequence[str], reference: str | None = None) -> None:
    bands = _bands(bed, arms, accuracy_band)
    figure = figures.curves(bands, reference or arms[0], "training rollouts", f"{bed.judged.split} accuracy")
    page.figure(name, f"accuracy against rollouts, {bed.source.name}", figure)


def _verdicts(page: Page, bed: Bed, reference: str | None = None, arms: Sequence[str] | None = None) -> None:
    found = bed.comparison if reference is None else bed.against(reference)
    own = reference or next(iter(bed.arms))
    head = (
        "arm", "settings", "seeds", "final accuracy ± sd", f"rollouts to {own}'s level", "ratio",
        f"curve - {own}", "p (Holm)",
    )  # fmt: skip
    page.table(
        head, [_verdict(bed, row) for row in found.rows if arms is None or bed.name_of(row.trial) in arms]
    )


def _verdict(bed: Bed, row: Row) -> list[str]:
    name = bed.name_of(row.trial)
    ratio, crossing = row.ratio, row.crossing
    never = f" ({crossing.censored} never)" if crossing and crossing.censored else ""
    ends = f" [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio and ratio.low is not None else ""
    bound = "" if ratio is None or ratio.bound == "=" else f"{ratio.bound} "
    return [
        name,
        bed.arms[name].settings,
        str(len(row.seeds)),
        "-" if row.final_mean is None else f"{row.final_mean:.3f} ± {row.final_sd or 0:.3f}",
        "-" if crossing is None else f"{crossing.compute:,.0f}{never}",
        "-" if ratio is None else f"{bound}{ratio.value:.2f}{ends}",
        _interval(row.difference, sign=True),
        p_text(row.p_adjusted),
    ]


def _interval(found: Interval | None, *, sign: bool = False) -> str:
    if found is None:
        return "-"
    plus = "+" if sign else ""
    return f"{found.mean:{plus}.3f} [{found.low:{plus}.3f}, {found.high:{plus}.3f}]"


def _range(found: Range | None) -> str:
    return "-" if found is None else f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
