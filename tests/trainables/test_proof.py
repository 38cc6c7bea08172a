"""The proof of a clean lease, and when a slot has grown too large."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trainables.rollouts.engine import Fingerprint
from trainables.weight_sync.weights import Weights
from trainables.worker.proof import GROWTH, SETTLED, Growth, Proof
from trimtab.errors import UncleanLease


def slot(value: float = 1.0, engine: str = "same", *, cache_empty: bool = True) -> tuple[Any, Any]:
    weights = Weights({"w": np.full(3, value, dtype=np.float32)}, "float32")
    learner = SimpleNamespace(checksum=weights.checksum, dtype="float32")
    engines = SimpleNamespace(
        update=lambda learner, version, timeout_s: None,
        fingerprints=lambda: [Fingerprint(engine, cache_empty)],
    )
    return learner, engines


@pytest.mark.parametrize(
    "other", [slot(np.nextafter(np.float32(1), np.float32(2))), slot(engine="x"), slot(cache_empty=False)]
)
def test_a_lease_that_differs_in_one_bit_is_refused(other):
    proof = Proof()
    first = proof.check("model", *slot(), 60)
    assert proof.check("model", *slot(), 60) == first
    with pytest.raises(UncleanLease):
        proof.check("model", *other, 60)
    assert proof.check("model", *slot(), 60) == first


def test_models_are_not_compared_with_each_other():
    proof = Proof()
    proof.check("model", *slot(), 60)
    proof.check("another model", *slot(2.0), 60)


def test_a_slot_is_too_large_by_what_it_settled_at():
    growth = Growth()
    assert not any(growth.too_much(mb) for mb in (*range(100, 100 + SETTLED), 110.0))
    settled = 100 + SETTLED - 1
    assert not growth.too_much(settled * (1 + GROWTH))
    assert growth.too_much(settled * (1 + GROWTH) + 1)
