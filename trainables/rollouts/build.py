"""From a configuration to its engine."""

from __future__ import annotations

from trainables.config import Backend, Dtype, EngineConfig
from trainables.rollouts.engine import Engine


def build_engine(
    model: str, config: EngineConfig, dtype: Dtype = "auto", backend: Backend | None = None
) -> Engine:
    """Start the engine that `config.kind` names, with the model's base weights at version -1.

    `dtype` is the learner's: an engine that computes in another type samples from another policy. `backend`
    is what weights are broadcast over; None means that they are not broadcast.
    """
    if config.kind == "vllm":
        from trainables.rollouts.vllm_engine import VllmEngine

        return VllmEngine(model, config, dtype, backend)
    from trainables.rollouts.transformers_engine import TransformersEngine

    return TransformersEngine(model, config, dtype)
