"""What may be believed of a sweep: its confirmation if there is one, and until then a search only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.decide.compare.read import Axis, Store
from trimtab.decide.compare.table import Comparison, Row, compare


@dataclass(frozen=True)
class Decision:
    """A sweep's comparison and that of its confirmation."""

    search: Comparison
    confirmation: Comparison | None
    """The newest one; its correction counts the comparisons of all."""

    @property
    def standing(self) -> Comparison:
        """The comparison that verdicts come from."""
        return self.confirmation or self.search

    def confirmed(self, row: Row) -> Row | None:
        """A searched configuration's row in the confirmation."""
        rows = self.confirmation.rows if self.confirmation else ()
        return next((other for other in rows if other.strategy == row.strategy), None)


def decide(
    store: Store,
    sweeps: Sequence[str],
    reference: str | None = None,
    by: Axis = "rollouts",
    sweep_id: str | None = None,
) -> Decision:
    """Compare one sweep, or several with the first one's reference, and look for the confirmation.

    Errors as in `Store.sweep` and `compare`. `sweep_id`: of the first sweep. With several sweeps nothing is
    looked for: name the confirmations themselves to compare those.
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
    """Whether it has a reference and anything to hold against it."""
    return comparison.level is not None and any(row.difference is not None for row in comparison.rows)
