"""What a sweep needs and how many slots fit at once; checked before anything starts."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from trainables.models.reference import reference_of
from trainables.models.shape import depth_and_width
from trainables.strategies.suits import warmup_warning, warnings
from trainables.tasks.local import local_overlap
from trainables.tasks.overlap import Overlap, lines
from trimtab.errors import PlanError, SpecError
from trimtab.planning.gpu_memory import GpuMemory, describe, estimate
from trimtab.planning.machine import GB
from trimtab.sweepspec.outside import has_test_split
from trimtab.sweepspec.spec import Work

if TYPE_CHECKING:
    from rich.console import RenderableType

    from trainables.config import TaskConfig

HEAD_BYTES = 2 * GB
"""Host memory kept for the driver, Ray's own processes and the tracking store."""
TRIAL_CPUS = 0.1
"""CPU cores of the Tune trial that each slot serves: a light client that mostly waits."""
TOLERANCE = 1e-9
"""Slack in comparisons, so that sums of fractions such as 0.1 lose no slot to rounding."""


@dataclass(frozen=True)
class SlotPlan:
    """Resources of one slot: a learner group and its engines."""

    learner_workers: int
    learner_cpus: float
    """CPU cores of each worker."""
    learner_gpus: float
    """GPUs of each worker."""
    engines: int
    engine_cpus: float
    """CPU cores of each engine."""
    engine_gpus: float
    """GPUs of each engine."""
    memory_bytes: int
    """Host memory of the whole slot."""

    @property
    def cpus(self) -> float:
        """Return the CPU cores of the whole slot and of the Tune trial that it serves."""
        return self.learner_workers * self.learner_cpus + self.engines * self.engine_cpus + TRIAL_CPUS

    @property
    def gpus(self) -> float:
        """Return the GPUs of the whole slot."""
        return self.learner_workers * self.learner_gpus + self.engines * self.engine_gpus


@dataclass(frozen=True)
class Plan:
    """What a sweep would run, and on which resources."""

    name: str
    slot: SlotPlan
    fits: int
    """Slots that fit."""
    slots: int
    """Slots that the sweep will start."""
    trials: int
    """Configurations, including those of the reference."""
    reference_trials: int
    """Configurations of the reference."""
    shares: dict[str, int]
    """Label of the reference and of each candidate -> configurations."""
    seeds: int
    """Runs of each configuration."""
    rollouts_per_run: int
    max_tokens: int
    """Longest response of a rollout."""
    cpus: float
    gpus: float
    memory_bytes: int
    reference_model: str | None = None
    """Path or hub id of the frozen model that the KL of a loss reads; None: no loss has one."""
    gpu_memory: GpuMemory | None = None
    """Estimate for one GPU; None without GPUs, or where the model's shape is not known."""
    places: tuple[str, ...] = ()
    """For each slot, which of its processes go to which node; empty where nodes are not distinguished."""
    data: Overlap | None = None
    """What the local files of the splits share; None for a task that has none."""
    duration: str = "not estimated"
    """What an estimate of its duration rests on, or why there is none."""
    duration_s: float | None = None
    """Estimate of its duration in seconds, if nothing is stopped early."""
    warnings: tuple[str, ...] = ()
    """What can run but will work badly."""

    @property
    def runs(self) -> int:
        """Return the number of runs: one per configuration and seed."""
        return self.trials * self.seeds

    @property
    def rollouts(self) -> int:
        """Return the training rollouts of the whole sweep if nothing is stopped early."""
        return self.runs * self.rollouts_per_run


def make_plan(
    spec: Work, cpus: float, gpus: float, memory_bytes: int, gpu_memory_bytes: int | None = None
) -> Plan:
    """Fit the spec's slots into the sum of these resources; `placement` fits them onto single nodes.

    Raises:
        PlanError: not even one slot fits, or fewer than the spec asks for.
        ModelError: the model's config.json cannot be read.
        SpecError: local files of the task's splits cannot be read, or share too many problems.
    """
    config = spec.reference_config().model_copy(update={"loss": spec.fullest_loss()})
    slots = spec.slots
    slot = SlotPlan(
        learner_workers=config.learner.workers,
        learner_cpus=slots.learner_cpus,
        learner_gpus=slots.learner_gpus,
        engines=config.engine.count,
        engine_cpus=slots.engine_cpus,
        engine_gpus=slots.engine_gpus,
        memory_bytes=int(slots.memory_gb * GB),
    )
    _check_tensor_parallel(slots.engine_gpus, config.engine.tensor_parallel)
    fits = _fits(slot, cpus, gpus, memory_bytes)
    trials = spec.trials
    wanted = min(max(fits, 1), trials) if slots.count == "auto" else slots.count
    if wanted > fits:
        raise PlanError(_shortage(slot, wanted, cpus, gpus, memory_bytes))
    return Plan(
        name=spec.name,
        slot=slot,
        fits=fits,
        slots=wanted,
        trials=trials,
        reference_trials=spec.reference_trials,
        shares=spec.shares,
        seeds=len(spec.seeds),
        rollouts_per_run=config.budget,
        max_tokens=config.sampling.max_tokens,
        cpus=cpus,
        gpus=gpus,
        memory_bytes=memory_bytes,
        gpu_memory=estimate(config, slots, gpu_memory_bytes),
        reference_model=reference_of(config.loss.kl, config.model),
        data=_data(config.task),
        warnings=tuple(_warnings(spec)),
    )


def summary(plan: Plan) -> dict[str, Any]:
    """Return the whole plan as plain values for JSON."""
    return {
        **asdict(plan),
        "runs": plan.runs,
        "rollouts": plan.rollouts,
        "tokens_at_most": plan.rollouts * plan.max_tokens,
        "slot_cpus": plan.slot.cpus,
        "slot_gpus": plan.slot.gpus,
    }


def _data(task: TaskConfig) -> Overlap | None:
    try:
        return local_overlap(task)
    except SpecError as error:
        raise SpecError(f"trial.{error}") from error


def _warnings(spec: Work) -> list[str]:
    """Collect the document's notes and the strategies' warnings about this model, each once."""
    size = depth_and_width(spec.reference_config().model)
    found = list(spec.notes)
    found += [line for one in spec.configs() if (line := warmup_warning(one.strategy, one.steps))]
    if spec.purpose == "search" and not has_test_split(spec.reference_config().task):
        found.append(
            "trial.task.test: not set, so that trimtab confirm would refuse this sweep: its verdict needs "
            "prompts that the search never saw"
        )
    if size is not None:
        found += [line for config in spec.configs() for line in warnings(config.strategy, size.width)]
    return list(dict.fromkeys(found))


def _check_tensor_parallel(engine_gpus: float, tensor_parallel: int) -> None:
    if tensor_parallel > 1 and engine_gpus != tensor_parallel:
        raise PlanError(
            f"slots.engine_gpus: {engine_gpus:g} GPUs cannot hold an engine with "
            f"trial.engine.tensor_parallel={tensor_parallel}; set slots.engine_gpus to {tensor_parallel}"
        )


def _fits(slot: SlotPlan, cpus: float, gpus: float, memory_bytes: int) -> int:
    limits = [
        _times(slot.cpus, cpus),
        _times(slot.gpus, gpus),
        _times(slot.memory_bytes, memory_bytes - HEAD_BYTES),
    ]
    return max(0, min(limit for limit in limits if limit is not None))


def _times(need: float, have: float) -> int | None:
    """Return how often `need` fits into `have`; None if nothing is needed."""
    return math.floor(have / need + TOLERANCE) if need > 0 else None


def _shortage(slot: SlotPlan, wanted: int, cpus: float, gpus: float, memory_bytes: int) -> str:
    """Name every resource that is short: what is needed, what there is, and the fix."""
    short: list[str] = []
    room = max(memory_bytes - HEAD_BYTES, 0)
    if wanted * slot.cpus > cpus + TOLERANCE:
        parts = f"{_parts(slot, slot.learner_cpus, slot.engine_cpus)}, 1 trial x {TRIAL_CPUS:g}"
        fix = "lower slots.learner_cpus or slots.engine_cpus"
        short.append(f"{wanted * slot.cpus:g} CPUs ({parts}) of {cpus:g}; {fix}")
    if wanted * slot.gpus > gpus + TOLERANCE:
        parts = _parts(slot, slot.learner_gpus, slot.engine_gpus)
        fix = "lower slots.learner_gpus or slots.engine_gpus (fractions share a GPU)"
        short.append(f"{wanted * slot.gpus:g} GPUs ({parts}) of {gpus:g}; {fix}")
    if wanted * slot.memory_bytes > room:
        short.append(
            f"{wanted * slot.memory_bytes / GB:.1f} GB memory of {room / GB:.1f} ({memory_bytes / GB:.1f} "
            f"less {HEAD_BYTES / GB:.1f} for the driver and Ray); lower slots.memory_gb"
        )
    what = "slots: one slot needs" if wanted == 1 else f"slots.count: {wanted} slots need"
    fix = "" if wanted == 1 else ", or slots.count"
    return f"{what} {'; and '.join(short)}{fix}, or use a larger machine"


def _parts(slot: SlotPlan, learner: float, engine: float) -> str:
    workers = _each(slot.learner_workers, learner, "learner worker")
    return f"{workers}, {_each(slot.engines, engine, 'engine')}"


def _each(count: int, share: float, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''} x {share:g}"


def render(plan: Plan) -> RenderableType:
    """Render the plan as a table."""
    from rich.table import Table

    slot = plan.slot
    table = Table(title=f"plan of {plan.name}: nothing is started", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row(
        "configurations",
        f"{plan.trials} ({plan.reference_trials} reference + {plan.trials - plan.reference_trials} searched)",
    )
    table.add_row("of each", ", ".join(f"{label} {number}" for label, number in plan.shares.items()))
    table.add_row("runs", f"{plan.runs} ({plan.trials} configurations x {plan.seeds} seeds)")
    table.add_row("rollouts", f"{plan.rollouts:,} ({plan.rollouts_per_run:,} a run)")
    about = "" if plan.duration_s is None else f"about {timedelta(seconds=round(plan.duration_s))}, "
    table.add_row("duration", f"{about}{plan.duration}")
    if plan.data is not None:
        table.add_row("data", "\n".join(lines(plan.data)))
    table.add_row("tokens", f"at most {plan.rollouts * plan.max_tokens:,}")
    table.add_row(
        "one slot",
        f"{_each(slot.learner_workers, slot.learner_cpus, 'learner worker')} CPU"
        f"{_gpus(slot.learner_gpus)}\n{_each(slot.engines, slot.engine_cpus, 'engine')} CPU"
        f"{_gpus(slot.engine_gpus)}\n1 trial x {TRIAL_CPUS:g} CPU\nin all {slot.cpus:g} CPU, "
        f"{slot.gpus:g} GPU, {slot.memory_bytes / GB:.1f} GB",
    )
    table.add_row(
        "reference model",
        f"{plan.reference_model}: frozen, on each learner worker"
        if plan.reference_model
        else "none: no loss or strategy here reads one",
    )
    if slot.gpus:
        table.add_row("GPU memory", "\n".join(_gpu_lines(plan.gpu_memory)))
    table.add_row("slots at once", f"{plan.slots} ({plan.fits} fit)")
    if plan.places:
        table.add_row(
            "where", "\n".join(f"{count} x {place}" for place, count in Counter(plan.places).items())
        )
    table.add_row(
        "machine",
        f"{plan.cpus:g} CPU, {plan.gpus:g} GPU, {plan.memory_bytes / GB:.1f} GB "
        f"({HEAD_BYTES / GB:.1f} kept for the driver and Ray)",
    )
    for line in plan.warnings:
        table.add_row("warning", line)
    return table


def _gpus(share: float) -> str:
    return f", {share:g} GPU each" if share else ""


def _gpu_lines(found: GpuMemory | None) -> list[str]:
    if found is None:
        return ["not estimated: the model's config.json is not here, or not of a dense decoder"]
    lines = [f"estimated for {found.parameters / 1e9:.2f} billion parameters; no activation is recomputed"]
    if found.learner:
        lines.append(f"learner worker {found.learner_bytes / GB:.1f} GB: {describe(found.learner)}")
    if found.engine:
        cache = f"; cache for {found.sequences} full sequences" if found.sequences else ""
        lines.append(f"engine at least {found.engine_bytes / GB:.1f} GB: {describe(found.engine)}{cache}")
    if found.gpu is None:
        lines.append("not checked: the size of a GPU is not known here; give --gpu-memory-gb")
    else:
        lines.append(f"of {found.gpu / GB:.1f} GB on each GPU")
    return lines
