"""Every error that trimtab raises on purpose. One tree, so a caller can catch all of it or one kind.

What training raises is defined in `trainables.errors`, with the rules for all of them.
It belongs to the same tree.
"""

from __future__ import annotations

from trainables.errors import (
    DivergedError as DivergedError,
)
from trainables.errors import (
    EngineLost as EngineLost,
)
from trainables.errors import (
    LearnerLost as LearnerLost,
)
from trainables.errors import (
    LeaseLost as LeaseLost,
)
from trainables.errors import (
    ModelError as ModelError,
)
from trainables.errors import (
    RecordError as RecordError,
)
from trainables.errors import (
    SecurityError as SecurityError,
)
from trainables.errors import (
    SpecError as SpecError,
)
from trainables.errors import (
    StorageError as StorageError,
)
from trainables.errors import (
    StrategyError as StrategyError,
)
from trainables.errors import (
    TrimtabError as TrimtabError,
)
from trainables.errors import (
    UncleanLease as UncleanLease,
)
from trainables.errors import (
    VerifierError as VerifierError,
)
from trainables.errors import (
    WeightSyncError as WeightSyncError,
)


class PlanError(TrimtabError, ValueError):
    """A valid spec that this machine or cluster cannot hold."""


class TrialFailed(TrimtabError, RuntimeError):
    """A trial failed for good. `cause` is one of `trimtab.sweepdir.journal.Cause`."""

    def __init__(self, message: str, cause: str = "bug") -> None:
        super().__init__(message, cause)
        self.cause = cause

    def __str__(self) -> str:
        return str(self.args[0])


class TrialKilled(TrimtabError, RuntimeError):
    """A trial ended because its sweep did. It has not failed: a resumed sweep goes on with it."""


class TrackingError(TrimtabError, RuntimeError):
    """MLflow cannot be reached, or does not hold what was asked for."""


class ComparisonError(TrimtabError, ValueError):
    """Runs that cannot be compared: no finished reference, other data, other compute."""


class RegistryError(TrimtabError, RuntimeError):
    """The model registry refused, or someone else moved the alias meanwhile. Nothing is half registered."""


class PromotionError(TrimtabError, ValueError):
    """A configuration that may not be promoted: not established, or without a usable checkpoint."""


class MachineError(TrimtabError, RuntimeError):
    """This machine refuses what a sweep needs of it, such as another process."""


class NotFoundError(TrimtabError, LookupError):
    """A sweep, trial or run that does not exist."""


class ClusterError(TrimtabError, RuntimeError):
    """A Ray cluster that cannot be reached, or does not take what it was given."""
