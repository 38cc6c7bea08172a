"""Sections of a spec that hold settings alone: how a search, its slots and its tracking work."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from trainables.config import Strict


class Asha(Strict):
    """Successive halving (ASHA, arXiv 1810.05934): only the best continue past a rung."""

    type: Literal["asha"] = "asha"
    first_rung: Annotated[int, Field(ge=1)]
    """Rollouts of a trial (all its seeds, in the order they run) before it can be stopped."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """Keeps the top 1/reduction_factor at each rung; rungs are this factor apart."""


class Median(Strict):
    """Stop a configuration whose best score so far is below the median of finished ones at equal compute."""

    type: Literal["median"]
    first_rung: Annotated[int, Field(ge=1)]
    """Rollouts of a trial (all its seeds, in the order they run) before it can be stopped."""
    min_trials: Annotated[int, Field(ge=1)] = 3
    """No configuration is stopped before this number has finished."""


EarlyStopping: TypeAlias = Annotated[Asha | Median, Field(discriminator="type")]


class SearchConfig(Strict):
    """How candidates are drawn."""

    trials: Annotated[int, Field(ge=1)] | None = None
    """Number of configurations of all candidates; each runs all seeds. What the candidates do not get for
    certain is shared evenly between those that are searched. Default: the sum of what they get for certain,
    or 5 if one of them has no number of its own."""
    trials_each: Annotated[int, Field(ge=1)] | None = None
    """Number of configurations of every candidate that is searched and says no `trials` of its own; a
    candidate that is not searched then gets one. With `grid` and without `trials`: its points."""
    sampler: Literal["tpe", "gp", "qmc", "random", "grid"] = "tpe"
    """`tpe`: multivariate, branch by branch. `gp`, `qmc`: one candidate, fixed bounds. `grid`: each point."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the sampler; the run seeds are `seeds`."""
    early_stopping: EarlyStopping | None = None


class ConfirmConfig(Strict):
    """What `trimtab confirm`, and `trimtab sweep --confirm`, retrain under fresh seeds."""

    top: Annotated[int, Field(ge=1)] = 1
    """Best configurations, whosever they are; or, with `each`, of every candidate."""
    each: bool = False
    """Confirm the best of every candidate and not only the best of all."""
    seeds: Annotated[int, Field(ge=1)] = 8
    """Fresh seeds of each configuration and of the reference."""


class SlotsConfig(Strict):
    """What one slot (a learner group and its engines) may take of the machine."""

    reuse: Literal["warm", "cold"] = "warm"
    """`warm`: a slot serves one trial after another. `cold`: every trial gets new processes. `slots: cold`
    for short."""
    count: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Number of slots at once; `auto`: as many as fit, at most one for each configuration."""
    learner_cpus: Annotated[float, Field(gt=0)] = 0.45
    """CPU cores of each learner worker."""
    engine_cpus: Annotated[float, Field(gt=0)] = 0.45
    """CPU cores of each rollout engine. One worker, one engine and the trial's 0.1 make one core."""
    learner_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each learner worker; fractions share a GPU."""
    engine_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each engine, in all (tensor parallelism over n GPUs needs n)."""
    learner_resource: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")] | None = None
    """On a cluster: learners run only on nodes that offer this custom Ray resource."""
    engine_resource: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")] | None = None
    """The same for engines: learners and engines on nodes of their own."""
    memory_gb: Annotated[float, Field(gt=0)] = 3.0
    """Host memory of the whole slot, in GB (1e9 bytes)."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, raw: Any) -> Any:
        return {"reuse": raw} if raw in ("warm", "cold") else raw

    @model_validator(mode="after")
    def _whole_gpus(self) -> SlotsConfig:
        for field in ("learner_gpus", "engine_gpus"):
            value: float = getattr(self, field)
            if value > 1 and value != int(value):
                raise ValueError(
                    f"{field}: {value} is not a whole number of GPUs; only fractions below 1 share one"
                )
        return self


class TrackingConfig(Strict):
    """Where results are recorded."""

    uri: str | None = None
    """MLflow tracking URI; default: SQLite under `home`."""
    experiment: Annotated[str, Field(min_length=1)] = "trimtab"
    """MLflow experiment that holds the runs."""
