"""What a user writes: a sweep's spec, read from YAML and checked before anything starts."""

from trimtab.spec.load import dump_spec, load_spec, parse_spec, shipped_spaces
from trimtab.spec.models import (
    Candidate,
    EarlyStopping,
    Reference,
    SearchConfig,
    SlotsConfig,
    SweepSpec,
    TrackingConfig,
    candidate_label,
    known_values,
)
from trimtab.spec.ranges import Choice, FloatRange, IntRange, Range

__all__ = [
    "Candidate",
    "Choice",
    "EarlyStopping",
    "FloatRange",
    "IntRange",
    "Range",
    "Reference",
    "SearchConfig",
    "SlotsConfig",
    "SweepSpec",
    "TrackingConfig",
    "candidate_label",
    "dump_spec",
    "known_values",
    "load_spec",
    "parse_spec",
    "shipped_spaces",
]
