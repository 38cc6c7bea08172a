"""Every error that training raises on purpose; `trimtab.errors` extends the tree.

A message names the field, the value and the fix. Errors cross process borders (Ray), so each class is
built from its arguments alone and stays picklable. Each also inherits the built-in error it refines.
"""

from __future__ import annotations


class TrimtabError(Exception):
    """Root of the tree. `trimtab` prints the message, without a traceback, and exits with 2."""


class SpecError(TrimtabError, ValueError):
    """What the user wrote cannot be run: unknown key, value out of range, fields that contradict."""


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


class StorageError(TrimtabError, RuntimeError):
    """The study's storage cannot be reached, or holds a study of the sweep's name already."""


class SecurityError(TrimtabError, PermissionError):
    """Something would run without authentication, or keep a secret where others can read it."""
