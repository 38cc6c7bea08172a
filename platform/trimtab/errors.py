"""Every error that trimtab raises on purpose. One tree, so a caller can catch all of it or one kind.

A message names the field, the value and the fix. Errors cross process borders (Ray), so each class is
built from its arguments alone and stays picklable. Each also inherits the built-in error it refines.
"""

from __future__ import annotations


class TrimtabError(Exception):
    """Root of the tree. `trimtab` prints the message, without a traceback, and exits with 2."""


class SpecError(TrimtabError, ValueError):
    """What the user wrote cannot be run: unknown key, value out of range, fields that contradict."""


class PlanError(TrimtabError, ValueError):
    """A valid spec that this machine or cluster cannot hold."""


class ModelError(TrimtabError, ValueError):
    """A model path that does not exist, or a model that this stack cannot train."""


class StrategyError(TrimtabError, ValueError):
    """A strategy met input outside its declared domain (NaN reward, prior out of range, empty group)."""


class RecordError(TrimtabError, ValueError):
    """A policy's record (or prompts, or embeddings) that a value model cannot read or learn from."""


class VerifierError(TrimtabError, RuntimeError):
    """The verifier failed (error or time-out) on more answers than the trial allows."""


class WeightSyncError(TrimtabError, RuntimeError):
    """After a weight sync the engine's log-probs differ from the learner's."""


class DivergedError(TrimtabError, ArithmeticError):
    """Training produced NaN or infinity, or sampler and learner drifted apart. Never retried."""


class LeaseLost(TrimtabError, RuntimeError):
    """The processes lent to a trial died or were given to someone else."""


class LearnerLost(LeaseLost):
    """Learner ranks are dead or out of step. Its `__cause__`, if any, is what the first one raised."""


class EngineLost(LeaseLost):
    """A rollout engine raised and is being replaced. Its `__cause__` is what it raised."""


class UncleanLease(LeaseLost):
    """A slot that was reset differs from what it was at its first lease."""


class TrialFailed(TrimtabError, RuntimeError):
    """A trial failed for good. `cause` is one of `trimtab.records.Cause`."""

    def __init__(self, message: str, cause: str = "bug") -> None:
        super().__init__(message, cause)
        self.cause = cause

    def __str__(self) -> str:
        return str(self.args[0])


class TrialKilled(TrimtabError, RuntimeError):
    """A trial ended because its sweep did. It has not failed: a resumed sweep goes on with it."""


class StorageError(TrimtabError, RuntimeError):
    """The study's storage cannot be reached, or holds a study of the sweep's name already."""


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


class SecurityError(TrimtabError, PermissionError):
    """Something would run without authentication, or keep a secret where others can read it."""


class ClusterError(TrimtabError, RuntimeError):
    """A Ray cluster that cannot be reached, or does not take what it was given."""
