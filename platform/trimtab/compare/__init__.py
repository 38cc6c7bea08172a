"""Which configuration beats the reference at equal compute, read from MLflow alone."""

from trimtab.compare.render import heading, render
from trimtab.compare.table import Comparison, Row, compare, comparison

__all__ = ["Comparison", "Row", "compare", "comparison", "heading", "render"]
