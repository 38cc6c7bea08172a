"""Which configuration beats the reference at equal compute, read from MLflow alone."""

from trimtab.compare.decide import Decision, decide
from trimtab.compare.read import Axis, RunRecord, Store, SweepRecord
from trimtab.compare.render import heading, render
from trimtab.compare.table import Comparison, Row, compare, comparison, require_reference

__all__ = [
    "Axis",
    "Comparison",
    "Decision",
    "Row",
    "RunRecord",
    "Store",
    "SweepRecord",
    "compare",
    "comparison",
    "decide",
    "heading",
    "render",
    "require_reference",
]
