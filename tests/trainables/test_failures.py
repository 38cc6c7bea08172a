"""Kinds of failure: what an exception is, and what the trial's client makes of how its leases end."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np
import pytest
import ray.exceptions
import torch

from trainables.config import VerifierConfig
from trainables.loop.verify import check_failure_rate
from trainables.strategies.batch import Verdict
from trainables.trial import TrialConfig
from trainables.worker.failures import classify
from trainables.worker.outcome import End
from trainables.worker.serve import _KeptVerifier
from trimtab import errors
from trimtab.slots import client


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    error.__cause__ = cause
    return error


GLOO = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")


@pytest.mark.parametrize(
    ("error", "cause", "breaks_slot"),
    [
        (MemoryError(), "out_of_memory", False),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory", False),
        (ray.exceptions.OutOfMemoryError("killed"), "out_of_memory", True),
        (ray.exceptions.RayTaskError("f", "trace", MemoryError()), "out_of_memory", False),
        (ray.exceptions.ActorDiedError(), "lost", True),
        (errors.LearnerLost("gone"), "lost", True),
        (raised(errors.LearnerLost("alone"), MemoryError()), "out_of_memory", True),
        (raised(errors.LearnerLost("alone"), KeyError("x")), "bug", True),
        (raised(errors.EngineLost("engine"), ValueError("x")), "lost", True),
        (raised(errors.EngineLost("engine"), MemoryError()), "out_of_memory", True),
        (errors.UncleanLease("differs"), "lost", True),
        (errors.DivergedError("nan"), "diverged", False),
        (errors.VerifierError("judge"), "verifier", False),
        (errors.SpecError("spec"), "user", False),
        (errors.ModelError("model"), "user", False),
        (OSError(errno.ENOSPC, "No space left on device"), "user", False),
        (OSError(errno.EACCES, "no"), "bug", False),
        (errors.StrategyError("strategy"), "bug", False),
        (ZeroDivisionError("mine"), "bug", False),
    ],
)
def test_every_failure_has_a_kind(error, cause, breaks_slot):
    failure = classify(error)
    assert (failure.cause, failure.breaks_slot) == (cause, breaks_slot)
    assert type(error).__name__ in failure.traceback


class Leases:
    """A broker whose leases end as told; remembers what it was asked."""

    def __init__(self, *leases: tuple[list[dict[str, Any]], End]) -> None:
        self._leases = list(leases)
        self.submitted: list[dict[str, Any]] = []
        self.recorded: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return _Method(getattr(self, f"do_{name}"))

    def do_submit(self, trial: str, payload: dict[str, Any]) -> int:
        self.submitted.append(payload)
        return len(self.submitted) - 1

    def do_poll(self, token: int, cursor: int) -> Any:
        events, end = self._leases[token]
        return events[cursor:], end

    def do_record(self, event: dict[str, Any]) -> None:
        self.recorded.append(event)


class _Method:
    def __init__(self, remote: Any) -> None:
        self.remote = remote


PAYLOAD = {"config": {"learner": {"micro_batch_tokens": 8192}}, "seeds": [0, 1], "output": "x"}
ONE_SEED = [{"event": "run_finished", "seed": 0, "status": "finished"}]


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    monkeypatch.setattr(client.ray, "get", lambda value: value)


def test_a_lost_lease_is_followed_by_another_for_the_seeds_that_are_left():
    broker = Leases((ONE_SEED, End("lost", "died", "lost")), ([], End("finished")))
    assert list(client.lease_until_done(broker, "t", PAYLOAD)) == ONE_SEED
    assert [p["seeds"] for p in broker.submitted] == [[0, 1], [1]]
    assert [(e["event"], e["cause"]) for e in broker.recorded] == [("retry", "lost")]


def test_leases_are_not_lost_for_ever():
    broker = Leases(*[([], End("lost", "died", "lost"))] * client.LEASES)
    with pytest.raises(errors.TrialFailed, match="lost 3 leases; last: died") as failure:
        list(client.lease_until_done(broker, "t", PAYLOAD))
    assert failure.value.cause == "lost"


def test_out_of_memory_is_tried_once_more_at_half_the_micro_batch():
    short = ([], End("failed", "no memory", "out_of_memory"))
    broker = Leases(short, ([], End("finished")))
    list(client.lease_until_done(broker, "t", PAYLOAD))
    sizes = [p["config"]["learner"]["micro_batch_tokens"] for p in broker.submitted]
    assert sizes == [8192, 4096]
    (retry,) = broker.recorded
    assert (retry["cause"], retry["micro_batch_tokens"]) == ("out_of_memory", 4096)
    with pytest.raises(errors.TrialFailed) as failure:
        list(client.lease_until_done(Leases(short, short), "t", PAYLOAD))
    assert failure.value.cause == "out_of_memory"


@pytest.mark.parametrize("cause", ["diverged", "verifier", "user", "bug"])
def test_other_failures_are_never_retried(cause):
    broker = Leases(([], End("failed", "why", cause)))
    with pytest.raises(errors.TrialFailed, match="why") as failure:
        list(client.lease_until_done(broker, "t", PAYLOAD))
    assert failure.value.cause == cause
    assert len(broker.submitted) == 1


def test_a_verifier_that_failed_is_not_lent_again():
    kept = _KeptVerifier()
    config = VerifierConfig()
    broken = kept.get("no_such_module:judge", config)
    with pytest.raises(errors.VerifierError):
        broken.verify([("1", "1")])
    again = kept.get("no_such_module:judge", config)
    assert again is not broken
    with pytest.raises(errors.VerifierError, match="cannot be imported"):
        again.verify([("1", "1")])
    kept.close()


def test_a_trial_that_ends_with_its_sweep_has_not_failed():
    broker = Leases((ONE_SEED, End("stopped")))
    with pytest.raises(errors.TrialKilled):
        list(client.lease_until_done(broker, "t", PAYLOAD))
    assert len(broker.submitted) == 1


def test_a_verifier_that_fails_above_its_rate_aborts_the_trial_and_one_below_does_not():
    config = TrialConfig.model_validate({"strategy": "grpo", "verifier": {"max_failure_rate": 0.05}})
    verdicts = np.full(100, int(Verdict.OK))
    verdicts[:5] = int(Verdict.TIMEOUT)
    check_failure_rate(verdicts, config, "step 3")
    verdicts[5] = int(Verdict.ERROR)
    with pytest.raises(
        errors.VerifierError, match=r"step 3: .* 6% of 100 .*max_failure_rate=0\.05"
    ) as failure:
        check_failure_rate(verdicts, config, "step 3")
    assert classify(failure.value).cause == "verifier"
