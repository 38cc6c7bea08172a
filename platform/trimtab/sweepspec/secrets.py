"""No secret in a spec: it is kept in the sweep's folder and in MLflow."""

from __future__ import annotations

from trimtab.security import check_plain, check_url
from trimtab.sweepspec.spec import SweepSpec


def check_spec(spec: SweepSpec) -> None:
    """Refuse a spec that carries a secret: it is kept in the sweep's folder and in MLflow."""
    check_url("storage", spec.storage)
    check_url("tracking.uri", spec.tracking.uri)
    check_plain("spec", spec.model_dump(mode="json"))
