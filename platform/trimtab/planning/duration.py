"""How long a sweep will take on this machine, by the pace of the last sweeps here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.errors import TrimtabError
from trimtab.sweepdir.folder import SweepDir
from trimtab.sweepdir.home import resolved

if TYPE_CHECKING:
    from trimtab.planning.plan import Plan
    from trimtab.sweepspec.spec import SweepSpec, Work

LAST = 3
"""Sweeps that an estimate rests on, at most: the newest ones."""


@dataclass(frozen=True)
class Pace:
    """What runs of a past sweep took."""

    sweep: str
    startup_s: float
    """From the first trial's start to the first slot that began with it."""
    rollout_s: float
    """Seconds of a slot for one training rollout, evaluation and everything else of a run included."""


def with_duration(plan: Plan, spec: SweepSpec) -> Plan:
    """Return the plan with an estimate of its duration, or with what is missing for one."""
    home = resolved(spec.home)
    paces = list(islice(_paces(home, spec), LAST))
    if not paces:
        why = f"not known: no sweep of this model, task and slot has finished a run under {home}"
        return replace(plan, duration=why)
    each_s = sum(pace.rollout_s for pace in paces) / len(paces)
    startup_s = sum(pace.startup_s for pace in paces) / len(paces)
    run_s = plan.rollouts_per_run * each_s
    duration_s = startup_s + max(run_s, plan.runs * run_s / plan.slots)
    return replace(
        plan,
        duration=f"by the pace of {', '.join(pace.sweep for pace in paces)} under {home}",
        duration_s=duration_s,
    )


def _paces(home: Path, spec: Work) -> Iterator[Pace]:
    """Yield the paces of past sweeps whose runs take the same, the newest first."""
    wanted = _like(spec)
    for folder in sorted(SweepDir.all(home), key=_changed, reverse=True):
        try:
            alike = folder.spec_file.is_file() and _like(folder.spec()) == wanted
        except TrimtabError:
            continue  # not a spec of this version
        if alike and (pace := _pace(folder)) is not None:
            yield pace


def _changed(folder: SweepDir) -> float:
    records = folder.path / "records"
    return records.stat().st_mtime if records.is_dir() else 0.0


def _like(spec: Work) -> tuple[Any, ...]:
    """Return what a run's pace depends on: the model, the prompts and answers, and the slot."""
    config, slots = spec.reference_config(), spec.slots
    return (
        config.model,
        config.task.name,
        config.sampling.max_tokens,
        (config.engine.kind, config.engine.count, config.engine.tensor_parallel),
        (config.learner.workers, config.learner.dtype, config.learner.zero_stage),
        (slots.learner_gpus, slots.engine_gpus, slots.reuse),
    )


def _pace(folder: SweepDir) -> Pace | None:
    """Measure the finished runs of a sweep; None: it has none."""
    started: list[float] = []
    begun: dict[tuple[str, int | None], float] = {}
    spent: dict[tuple[str, int | None], int] = {}
    seconds, rollouts = 0.0, 0
    for event in folder.events():
        run = event["trial"], event.get("seed")
        match event["event"]:
            case "trial_started":
                started.append(event["time"])
            case "stage" if event["stage"] == "resetting":
                begun[run] = event["time"]
                spent.pop(run, None)
            case "step":
                spent[run] = event["rollouts"]
            case "run_finished" if event["status"] == "finished" and run in begun and spent.get(run):
                seconds, rollouts = seconds + event["time"] - begun[run], rollouts + spent[run]
    if not rollouts:
        return None
    return Pace(folder.name, max(0.0, min(begun.values()) - min(started)), seconds / rollouts)
