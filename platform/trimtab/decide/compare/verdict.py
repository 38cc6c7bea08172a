"""Which comparison decides about a sweep: its confirmation's, or its own while it is not confirmed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.decide.compare.read import Axis, Store
from trimtab.decide.compare.table import Comparison, Row, compare


@dataclass(frozen=True)
class Decision:
    """The comparison of a sweep and that of its confirmation."""

    search: Comparison
    confirmation: Comparison | None
    """The newest one; its correction counts the comparisons of all confirmations."""

    @property
    def standing(self) -> Comparison:
        """Return the comparison that verdicts come from."""
        return self.confirmation or self.search

    def confirmed(self, row: Row) -> Row | None:
        """Find the row of a searched configuration in the confirmation."""
        rows = self.confirmation.rows if self.confirmation else ()
        return next((other for other in rows if other.strategy == row.strategy), None)


def decide(
    store: Store,
    sweeps: Sequence[str],
    reference: str | None = None,
    by: Axis = "rollouts",
    sweep_id: str | None = None,
) -> Decision:
    """Compare one sweep and find its confirmation, or compare several with the first one's reference.

    For several sweeps no confirmation is looked up: to compare confirmations, name them.
    `sweep_id`: id of the first sweep.

    Raises:
        NotFoundError: there is no such sweep or reference.
        ComparisonError: the sweeps differ in data or compute.
        TrackingError: the store does not answer.
    """
    read = [store.sweep(name, sweep_id if name == sweeps[0] else None, by) for name in sweeps]
    search = compare(read, reference)
    if len(read) > 1 or read[0].purpose != "search":
        return Decision(search, None)
    confirmations = [store.sweep(name, by=by) for name in store.confirmations_of(sweeps[0])]
    judged = [compare(sweep) for sweep in confirmations]
    shown = next(
        ((s, c) for s, c in reversed(list(zip(confirmations, judged, strict=True))) if _says(c)), None
    )
    if shown is None:
        return Decision(search, None)
    tests = sum(comparison.family for comparison in judged)
    return Decision(search, compare(shown[0], family=tests))


def _says(comparison: Comparison) -> bool:
    """Tell whether it has a reference and anything to compare with it."""
    return comparison.level is not None and any(row.difference is not None for row in comparison.rows)
