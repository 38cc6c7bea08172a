"""A spec is kept in the sweep's folder and in MLflow, so that it must not carry a secret."""

from __future__ import annotations

from trimtab.security import check_plain, check_url
from trimtab.sweepspec.spec import SweepSpec


def check_spec(spec: SweepSpec) -> None:
    """Refuse a spec that carries a secret.

    Raises:
        SecurityError: with the field and where the secret belongs.
    """
    check_url("storage", spec.storage)
    check_url("tracking.uri", spec.tracking.uri)
    check_plain("spec", spec.model_dump(mode="json"))
