"""A Tune trial: the light client of a lease. Holds no GPU and no model; imports no torch."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import ray
from ray import tune

from trimtab.errors import LeaseLost, TrimtabError
from trimtab.objective import Curves

LEASES = 3
"""Leases a trial may lose (a slot's process died) before it fails. It resumes from its checkpoint."""


def tune_trial(config: dict[str, Any], *, broker: Any, sweep_dir: str) -> None:
    """Run one configuration over its seeds on whatever slot is free, and report to Tune.

    `config` holds `key` (the trial's name in the sweep, the same after a resume), `trial` (TrialConfig as
    JSON), `seeds`, `role`, `label`, `number`, `searched` and `rung` (rollouts between evaluations). What Tune
    sees, once an evaluation: `score` (the objective), `accuracy`, `rollouts` and `rung` (over all seeds),
    `finished`. What the journal holds of the trial already is not run again.
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
    }
    started = {name: config[name] for name in ("role", "label", "number", "searched", "seeds")}
    _record(broker, key, "trial_started", config=config["trial"], **started)
    status, error = "stopped", None
    try:
        # Tune stops a trial by raising out of `report`: closing the generator then frees the slot.
        with closing(_events(broker, key, payload)) as events:
            for event in events:
                _enter(curves, event)
                if event["event"] == "evaluation":
                    tune.report({**curves.figures(), "finished": False})
        tune.report({**curves.figures(), "finished": True})
        status = "finished"
    except TrimtabError as failure:
        status, error = "failed", str(failure)
        raise
    finally:
        _record(broker, key, "trial_finished", status=status, score=curves.score(), error=error)


def _enter(curves: Curves, event: Mapping[str, Any]) -> None:
    if event["event"] == "evaluation":
        curves.add(event["seed"], event["rollouts"], event["metrics"]["accuracy"])
    elif event["event"] == "run_finished" and event["status"] == "finished":
        curves.finish(event["seed"])


def _events(broker: Any, trial_id: str, payload: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
    """Events of the trial, over as many leases as it takes. Raises TrimtabError when it fails for good."""
    error: str | None = None
    if not payload["seeds"]:
        return
    for _ in range(LEASES):
        token = ray.get(broker.submit.remote(trial_id, payload))
        with closing(_lease_events(broker, token)) as events:
            outcome, error = yield from events
        if outcome == "finished":
            return
        if outcome != "lost":
            raise TrimtabError(error or f"trial {trial_id} was {outcome}")
    raise LeaseLost(f"trial {trial_id}: lost {LEASES} slots in a row; last: {error}")


def _lease_events(broker: Any, token: int) -> Generator[dict[str, Any], None, tuple[str | None, str | None]]:
    """Events of one lease; returns its outcome and error. Closing it early frees the slot."""
    cursor = 0
    outcome: str | None = None
    error: str | None = None
    try:
        while outcome is None:
            events, outcome, error = ray.get(broker.poll.remote(token, cursor))
            for event in events:
                cursor += 1
                yield event
    finally:
        if outcome is None:
            broker.cancel.remote(token)
    return outcome, error


def _record(broker: Any, trial_id: str, event: str, **fields: Any) -> None:
    ray.get(broker.record.remote({"event": event, "trial": trial_id, "time": time.time(), **fields}))
