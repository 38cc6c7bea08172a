"""Every error that training raises on purpose; `trimtab.errors` extends the tree.

A message names the field, the value and the fix. Errors cross process borders (Ray), so each class must stay
picklable: its arguments alone rebuild it. Each class also inherits the built-in error that it refines.
"""

from __future__ import annotations


class TrimtabError(Exception):
    """Root of the tree. `trimtab` prints the message, without a traceback, and exits with 2."""


class SpecError(TrimtabError, ValueError):
    """What the user wrote cannot be run: unknown key, value out of range, fields that contradict."""


class ModelError(TrimtabError, ValueError):
    """A model path that does not exist, or a model that cannot be trained here."""


class StrategyError(TrimtabError, ValueError):
    """A strategy met input outside its declared domain (NaN reward, prior out of range, empty group)."""


class RecordError(TrimtabError, ValueError):
    """A value model cannot read, or learn from, a policy's record, its prompts or its embeddings."""


class VerifierError(TrimtabError, RuntimeError):
    """The verifier failed (error or time-out) on more answers than the trial allows."""


class WeightSyncError(TrimtabError, RuntimeError):
    """After a weight sync the engine's log-probs differ from the learner's."""


class DivergedError(TrimtabError, ArithmeticError):
    """Training produced NaN or infinity, or sampler and learner drifted apart. Never retried."""


class LeaseLost(TrimtabError, RuntimeError):
    """The processes lent to a trial have died or have been given to another trial."""


class LearnerLost(LeaseLost):
    """Learner ranks are dead or out of step. `__cause__` is what the first one raised, if anything."""


class EngineLost(LeaseLost):
    """A rollout engine raised and is being replaced. `__cause__` is what it raised."""


class UncleanLease(LeaseLost):
    """A slot's state after a reset differs from that at its first lease."""


class StorageError(TrimtabError, RuntimeError):
    """The disk is full, or the study's storage cannot be reached or already holds a study of that name."""


class SecurityError(TrimtabError, PermissionError):
    """Something would run without authentication, or a secret would be kept where others can read it."""
