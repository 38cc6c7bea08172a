"""Prior `batchwise`: the other prompts' rewards, weighted (BASIS, arXiv 2605.27293).

    b_i = sum_{j != i} w_ij r_j,  w_ij = v_i (v_j / s_j^2) / sum_{l != i} (v_l^2 / s_l^2)

with s_j^2 = v_j (1 - v_j): of the linear estimates with sum_j w_ij v_j = v_i the one of least variance.
v = p e^(1/beta) / (1 - p + p e^(1/beta)) is the mean reward of the policy proportional to ref exp(r / beta),
ref having pass rate p; beta = inf leaves p. p is the mean of a prompt's own record, leaning on that of all
by one rollout. Read: the abstract, and a summary of the text that has weights ("BLUE") and value ("closed
form of the KL-regularised optimal policy") in words. The formulas are trimtab's reading of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from trainables.strategies.members.base import Keep
from trainables.strategies.priors.base import PriorMember
from trainables.strategies.scale import Scale

if TYPE_CHECKING:
    from trainables.strategies.priors.smoothed.sharing import Sharing


class BatchwisePrior(PriorMember):
    """Other prompts' rewards in the batch, weighted by what is known of each prompt (BASIS). Unbiased."""

    type: Literal["batchwise"] = "batchwise"
    keep: Keep = 0.99
    """Share of a prompt's record that survives a step."""

    def begin(self, scale: Scale) -> Sharing:
        # It names this module for the type checker.
        from trainables.strategies.priors.smoothed.sharing import Sharing

        return Sharing(self, scale)
