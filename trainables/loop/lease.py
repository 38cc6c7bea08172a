"""What a trial is lent for its time: processes that outlive it, and the way back to the sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from trainables.config import VerifierConfig
from trainables.strategies.batch import FloatArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trainables.learner.group import LearnerGroup
    from trainables.rollouts.pool import EnginePool
    from trainables.verifier.pool import VerifierPool


class Report(Protocol):
    """Sends one event of this run (see `trimtab.sweepdir.journal`). Returns False when the run is to stop."""

    def __call__(self, event: str, **fields: Any) -> bool: ...


@dataclass(frozen=True)
class Lease:
    """A learner group and rollout engines, lent to one run at a time.

    The run resets what it uses before its first step; the lender resets nothing.
    """

    model: str
    """Local directory or hub id of the base weights that learner and engines were started with."""
    tokenizer: PreTrainedTokenizerBase
    learner: LearnerGroup
    engines: EnginePool
    verifier: Callable[[str, VerifierConfig], VerifierPool]
    """The process pool for a judge (import path), kept between runs that use the same one."""
    report: Report
    base_answers: dict[str, FloatArray] = field(default_factory=dict)
    """What the base weights answered, by all that it depends on. The lender hands the same one to every run:
    each begins with the same weights, so that a sweep evaluates them once a seed and not once a run."""
    proof: Callable[[Lease], None] | None = None
    """Called once the run has reset what it was lent, before it restores anything: the lender's own check."""
