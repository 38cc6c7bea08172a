"""The function that Ray Tune runs for each trial: a client of the broker, without GPU, model or torch."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import ray
from ray import tune

from trainables.worker.outcome import End
from trimtab.errors import TrialFailed, TrialKilled
from trimtab.sweepdir.objective import Curves

LEASES = 3
"""Number of lost leases (a process of the slot died) after which a trial fails. Until then it resumes."""


def tune_trial(config: dict[str, Any], *, broker: Any, sweep_dir: str, shared: bool) -> None:
    """Run one configuration over its seeds on any free slot, and report to Tune.

    Each evaluation is reported as `score` (the objective), `accuracy`, `rollouts` and `rung` (over all seeds)
    and `finished`. Seeds that have finished by the journal are not run again.

    Args:
        config: `key` (the trial's name in the sweep, the same after a resume), `trial` (TrialConfig as JSON),
            `seeds`, `role`, `family` (the candidate that it is a configuration of), `label`, `number`,
            `searched` and `rung` (rollouts between evaluations).
        broker: Handle of the broker actor.
        sweep_dir: The sweep's folder.
        shared: Whether idle slots may run some of the seeds. Tune still sees the seeds in their order.
    """
    key = config["key"]
    curves = Curves(
        budget=config["trial"]["steps"] * config["trial"]["rollouts_per_step"], rung=config["rung"]
    )
    for event in ray.get(broker.history.remote(key)):
        _enter(curves, event)
    payload = {
        "config": config["trial"],
        "seeds": [seed for seed in config["seeds"] if not curves.has_finished(seed)],
        "output": str(Path(sweep_dir) / "trials" / key),
        "shared": shared,
    }
    started = {name: config[name] for name in ("role", "family", "label", "number", "searched", "seeds")}
    _record(broker, key, "trial_started", config=config["trial"], **started)
    status, error, cause = "stopped", None, None
    try:
        # Tune stops a trial by raising out of `report`. Closing the generator then frees the slot.
        with closing(lease_until_done(broker, key, payload)) as events:
            for event in events:
                _enter(curves, event)
                if event["event"] == "evaluation":
                    tune.report({**curves.metrics(), "finished": False})
        tune.report({**curves.metrics(), "finished": True})
        status = "finished"
    except TrialKilled:
        status = "killed"
        raise
    except TrialFailed as failure:
        status, error, cause = "failed", str(failure), failure.cause
        raise
    except Exception as failure:
        status, error, cause = "failed", f"{type(failure).__name__}: {failure}", "bug"
        raise
    finally:
        _record(broker, key, "trial_finished", status=status, score=curves.score(), error=error, cause=cause)


def _enter(curves: Curves, event: Mapping[str, Any]) -> None:
    if event["event"] == "evaluation":
        curves.add(event["seed"], event["rollouts"], event["metrics"]["accuracy"])
    elif event["event"] == "run_finished" and event["status"] == "finished":
        curves.finish(event["seed"])


def lease_until_done(
    broker: Any, trial_id: str, payload: dict[str, Any]
) -> Generator[dict[str, Any], None, None]:
    """Yield the events of a trial, over as many leases as it takes.

    A lost lease is followed by another one. After a lease that ran out of memory, one more is tried with half
    the micro-batch, which changes the memory but not the gradient. Both resume from the trial's checkpoint.

    Raises:
        TrialFailed: The trial failed and will not be retried.
        TrialKilled: The sweep ended before the trial.
    """
    lost = 0
    halved = False
    finished: set[int] = set()
    while left := [seed for seed in payload["seeds"] if seed not in finished]:
        token = ray.get(broker.submit.remote(trial_id, {**payload, "seeds": left}))
        with closing(_lease_events(broker, token)) as events:
            try:
                while True:
                    event = next(events)
                    if event["event"] == "run_finished" and event["status"] == "finished":
                        finished.add(event["seed"])
                    yield event
            except StopIteration as done:
                end: End = done.value
        if end.outcome == "finished":
            return
        if end.outcome == "stopped":
            raise TrialKilled(f"trial {trial_id} was stopped with its sweep")
        cause = end.cause or "bug"
        error = end.error or f"trial {trial_id} was {end.outcome}"
        if cause == "out_of_memory" and not halved:
            halved = True
            payload = _at_half_micro_batch(payload)
            size = payload["config"]["learner"]["micro_batch_tokens"]
            _record(broker, trial_id, "retry", cause=cause, error=error, micro_batch_tokens=size)
        elif cause == "lost" and end.outcome == "lost":
            lost += 1
            _record(broker, trial_id, "retry", cause=cause, error=error)
            if lost == LEASES:
                raise TrialFailed(f"trial {trial_id}: lost {LEASES} leases; last: {error}", "lost")
        else:
            raise TrialFailed(error, cause)


def _at_half_micro_batch(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the same job with forward passes of half the size."""
    config = payload["config"]
    size = max(1, int(config["learner"]["micro_batch_tokens"]) // 2)
    return {**payload, "config": {**config, "learner": {**config["learner"], "micro_batch_tokens": size}}}


def _lease_events(broker: Any, token: int) -> Generator[dict[str, Any], None, End]:
    """Yield the events of one lease and return how it ended. Closing the generator early frees the slot."""
    cursor = 0
    end: End | None = None
    try:
        while end is None:
            events, end = ray.get(broker.poll.remote(token, cursor))
            for event in events:
                cursor += 1
                yield event
    finally:
        if end is None:
            broker.cancel.remote(token)
    return end


def _record(broker: Any, trial_id: str, event: str, **fields: Any) -> None:
    ray.get(broker.record.remote({"event": event, "trial": trial_id, "time": time.time(), **fields}))
