"""Prior `probe`: a probe on the policy's hidden states (POISE, arXiv 2605.07579, section 3, algorithm 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from trainables.strategies.batch import FeatureNeeds
from trainables.strategies.budget.base import Budget
from trainables.strategies.fusion.base import Fusion
from trainables.strategies.members.base import Point, Positive
from trainables.strategies.priors.base import PriorMember
from trainables.strategies.priors.probing.regression import ModelKind, Order
from trainables.strategies.scale import Scale

if TYPE_CHECKING:
    from trainables.strategies.priors.probing.state import Probe

DEPTH = 0.53
OWN_STATES = (
    "lets the probe read the states of the very rollout that it is a baseline for: they depend on the "
    "rollout's own tokens, so the gradient would be biased"
)


class ProbePrior(PriorMember):
    """Probe on the policy's own hidden states, refitted every step (POISE, arXiv 2605.07579).

    Its states come with the learner's log-prob pass. Defaults are those of the authors' code; their paper
    has no PCA and a penalty of .01.
    """

    type: Literal["probe"] = "probe"
    depth: Annotated[float, Field(gt=0, le=1)] = DEPTH
    """Relative depth of the decoder block that is read: block floor(depth * L) of L, 19 of 36."""
    layer: int | Literal["auto"] | None = None
    """That block by its number, from 0. `auto`: the block with the smallest trailing error on rewards that
    it had not seen; reads the survey."""
    survey: bool = False
    """Score every block at each step: `strategy/layer_mae/<block>`, `strategy/layer_pearson/<block>`."""
    survey_width: Annotated[int, Field(ge=0)] = 64
    """Numbers per part to which the survey projects a block's states; 0 = none is left out."""
    states: Literal["trajectory", "prompt"] = "trajectory"
    """`prompt`: prompt states only. A value estimate per prompt, which any fusion may use; `trajectory` needs
    one that leaves the scored rollout out."""
    window: Annotated[int, Field(ge=1)] = 10
    """Tokens at the end of prompt and reasoning that are averaged."""
    reasoning_end: Annotated[str, Field(min_length=1)] = "</think>"
    """Ends the reasoning. The states of a response without it are those of its end, and the entropy of its
    reasoning is 0."""
    model: ModelKind = "ridge"
    penalty: Positive = 100.0
    """L2 penalty on the sum over rows."""
    pca_prompt: Annotated[int, Field(ge=0)] = 32
    """Principal components of the prompt part, at most as many as rows and columns; 0 = all columns."""
    pca_response: Annotated[int, Field(ge=0)] = 64
    order: Order = "released"
    """`released`: PCA of the raw states, then its scores are standardised. `standardised`: first the states
    are, and the scores of their PCA are not. Without PCA they are the same."""
    buffer: Annotated[int, Field(ge=16)] = 4096
    """Rows the probe is fitted on; the oldest prompt groups leave first."""
    refit: Literal["scratch", "incremental"] = "scratch"
    """`incremental`: scaling and PCA are kept for `refresh` steps, and only the regression is refitted."""
    refresh: Annotated[int, Field(ge=1)] = 16
    per_stratum: bool = False
    """One probe for each declared stratum (declare domains as strata); false: one for all prompts."""
    max_bad_features: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of a step's rollouts whose states may be NaN or infinite (they are left out) before the trial
    fails as diverged."""
    start: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Value estimate before the first fit, as a share of the reward range."""

    @property
    def auto(self) -> bool:
        """Whether the block is chosen by its trailing error."""
        return self.layer == "auto"

    def features(self) -> FeatureNeeds:
        """Return the hidden states that the learner must keep."""
        return FeatureNeeds(
            depth=self.depth,
            layer=self.layer if isinstance(self.layer, int) else None,
            window=self.window,
            reasoning_end=self.reasoning_end,
            survey=self.survey_width if self.survey or self.auto else None,
        )

    def components(self) -> list[int]:
        """Return the principal components of each part; 0 = all columns."""
        return [self.pca_prompt] if self.states == "prompt" else [self.pca_prompt, self.pca_response, 0]

    def check(self, beside: Point) -> None:
        """Refuse fusions that let a trajectory's own states into its own baseline."""
        if self.auto and self.depth != DEPTH:
            raise ValueError(
                f"prior.depth: {self.depth} beside layer 'auto', which chooses; remove one of them"
            )
        if isinstance(self.layer, int) and self.layer < 0:
            raise ValueError(f"prior.layer: {self.layer} is not a block; write a number from 0, or auto")
        fusion, budget = beside.fusion, beside.budget
        if self.states == "prompt" or not isinstance(fusion, Fusion) or not fusion.mixes_prior:
            return
        if not fusion.leaves_out_states:
            raise ValueError(
                f"fusion.leave_one_out: false {OWN_STATES}; set leave_one_out: true, or prior.states: prompt"
            )
        if isinstance(budget, Budget) and budget.first_round() < 2:
            raise ValueError(
                f"budget: {budget.type!r} may leave a prompt with one rollout, which has no other one "
                f"whose states the probe could read; start with at least 2, or set prior.states: prompt"
            )

    def begin(self, scale: Scale) -> Probe:
        from trainables.strategies.priors.probing.state import Probe

        return Probe(self, scale)
