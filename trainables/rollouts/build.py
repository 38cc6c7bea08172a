"""Which engine a configuration names."""

from __future__ import annotations

from trainables.config import Backend, Dtype, EngineConfig
from trainables.rollouts.engine import Engine


def build_engine(
    model: str, config: EngineConfig, dtype: Dtype = "auto", backend: Backend | None = None
) -> Engine:
    """The engine that `config.kind` names, holding the model's base weights at version -1.

    `dtype` is the learner's: an engine that computes in another one samples from another policy. `backend`:
    what weights are broadcast over, if they are.
    """
    if config.kind == "vllm":
        from trainables.rollouts.vllm_engine import VllmEngine

        return VllmEngine(model, config, dtype, backend)
    from trainables.rollouts.transformers_engine import TransformersEngine

    return TransformersEngine(model, config, dtype)
