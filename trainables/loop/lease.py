"""What a trial is lent: processes that outlive it, and the way back to the sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from trainables.config import VerifierConfig
from trainables.strategies.batch import FloatArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trainables.learner.group import LearnerGroup
    from trainables.rollouts.group import EngineGroup
    from trainables.verifier.verifier import Verifier


class Report(Protocol):
    """Sends one event of this run to the sweep's journal."""

    def __call__(self, event: str, **fields: Any) -> bool:
        """Send the event. Return False when the run is to stop."""
        ...


@dataclass(frozen=True)
class Lease:
    """A learner group and rollout engines, lent to one run at a time.

    The run resets what it uses before its first step; the lender resets nothing.
    """

    model: str
    """Local directory or hub id of the base weights that learner and engines were started with."""
    tokenizer: PreTrainedTokenizerBase
    learner: LearnerGroup
    engines: EngineGroup
    verifier: Callable[[str, VerifierConfig], Verifier]
    """Returns the verifier for a judge (import path), kept between runs that use the same one."""
    report: Report
    base_answers: dict[str, FloatArray] = field(default_factory=dict)
    """Correctness (P, K) of the base weights' answers, by everything that it depends on. The lender hands the
    same dictionary to every run. As all runs begin with the same weights, a sweep evaluates these once per
    seed and not once per run."""
    proof: Callable[[Lease], None] | None = None
    """The lender's own check. The run calls it after it has reset the lease, before it restores anything."""
