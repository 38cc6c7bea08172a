"""Every error that trimtab raises on purpose, in one tree: a caller can catch all of them or one kind.

Errors of training are defined in `trainables.errors` and belong to the same tree. The rules for all errors
are there.
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
    """The spec is valid, but this machine or cluster is too small for it."""


class TrialFailed(TrimtabError, RuntimeError):
    """A trial failed and will not be retried. `cause` is one of `trimtab.sweepdir.journal.Cause`."""

    def __init__(self, message: str, cause: str = "bug") -> None:
        super().__init__(message, cause)
        self.cause = cause

    def __str__(self) -> str:
        return str(self.args[0])


class TrialKilled(TrimtabError, RuntimeError):
    """A trial ended because its sweep did. It has not failed: `trimtab resume` continues it."""


class TrackingError(TrimtabError, RuntimeError):
    """MLflow cannot be reached, or does not hold the requested runs."""


class ComparisonError(TrimtabError, ValueError):
    """Runs cannot be compared: the reference has not finished, or their data or compute differ."""


class RegistryError(TrimtabError, RuntimeError):
    """The model registry refused, or someone else moved the alias. Nothing is left half registered."""


class PromotionError(TrimtabError, ValueError):
    """A configuration cannot be promoted: it is not established as better, or has no usable checkpoint."""


class MachineError(TrimtabError, RuntimeError):
    """This machine refuses something that a sweep needs, such as another process."""


class NotFoundError(TrimtabError, LookupError):
    """A sweep, trial or run does not exist."""


class ClusterError(TrimtabError, RuntimeError):
    """A Ray cluster cannot be reached, or rejects a request."""
