"""Presets whose budget spends by a prompt's own outcomes. The advantage of all is GRPO's."""

from __future__ import annotations

from trainables.strategies.budget.adaptive.cero import Cero
from trainables.strategies.budget.adaptive.hora import Hora
from trainables.strategies.budget.adaptive.sara import Rate, Sara
from trainables.strategies.fusion.group_mean import GroupMean
from trainables.strategies.members.base import Alpha, PairSize, Positive
from trainables.strategies.normalisers import GroupStd
from trainables.strategies.presets.base import Axes, Preset


class HoraPreset(Preset):
    """HORA (arXiv 2605.07114): GRPO's advantage on groups that are sized by posterior hit utility.

    Read: the abstract. RLOO's advantage, which it names too, is `fusion: leave_one_out, normaliser: none`.

    Departs: the number of probes and the cap are trimtab's; all rollouts of a group are trained, the probes
    that sized it included, so the mean of a group depends on its size (docs/strategy-tables.md).
    """

    group_size: PairSize = 16
    probes: PairSize = 4
    high: PairSize = 64
    """Most rollouts of one prompt."""

    def axes(self) -> Axes:
        return {
            "fusion": GroupMean(),
            "budget": Hora(group_size=self.group_size, probes=self.probes, high=self.high),
            "normaliser": GroupStd(),
        }


class CeroPreset(Preset):
    """CERO (arXiv 2606.05606): GRPO's advantage on groups that are sized by prices learned over epochs.

    Read: the abstract and summaries, which have no equation and do not name the advantage.

    Departs: the utility's form, the step sizes and the bounds of a visit are trimtab's; a step is never
    larger than `rollouts_per_step`, and what it leaves goes into further steps; the posterior forgets
    nothing while the policy changes.
    """

    group_size: PairSize = 16
    low: PairSize = 4
    high: PairSize = 32
    rate: Positive = 0.25

    def axes(self) -> Axes:
        return {
            "fusion": GroupMean(),
            "budget": Cero(**dict(self)),
            "normaliser": GroupStd(),
        }


class SaraPreset(Preset):
    """SARA (arXiv 2607.26253): a sequential test commits to a prompt or abandons it; GRPO's advantage.

    Read: no text of the paper; second hand, one sentence, which does not name the advantage.

    Departs: what is tested, its levels and further probes of undecided prompts are trimtab's; an abandoned
    prompt is dropped with its probes, which stay paid for, so the groups that are trained are chosen by
    their outcomes (docs/strategy-tables.md).
    """

    group_size: PairSize = 16
    probes: PairSize = 4
    hopeless: Rate = 0.05
    worth: Rate = 0.3
    alpha: Alpha = 0.05
    beta: Alpha = 0.3
    train_abandoned: bool = False

    def axes(self) -> Axes:
        return {
            "fusion": GroupMean(),
            "budget": Sara(**dict(self)),
            "normaliser": GroupStd(),
        }
