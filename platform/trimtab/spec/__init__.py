"""What a user writes: a sweep's spec, read from YAML and checked before anything starts."""

from trimtab.spec.check import known_values
from trimtab.spec.load import dump_spec, load_spec, parse_spec, shipped_spaces
from trimtab.spec.models import (
    Asha,
    Candidate,
    EarlyStopping,
    Median,
    Reference,
    SearchConfig,
    Searched,
    SlotsConfig,
    SweepSpec,
    TrackingConfig,
    candidate_label,
)
from trimtab.spec.outside import check_outside
from trimtab.spec.ranges import Choice, FloatRange, IntRange, Range

__all__ = [
    "Asha",
    "Candidate",
    "Choice",
    "EarlyStopping",
    "FloatRange",
    "IntRange",
    "Median",
    "Range",
    "Reference",
    "SearchConfig",
    "Searched",
    "SlotsConfig",
    "SweepSpec",
    "TrackingConfig",
    "candidate_label",
    "check_outside",
    "dump_spec",
    "known_values",
    "load_spec",
    "parse_spec",
    "shipped_spaces",
]
