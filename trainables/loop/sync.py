"""Weight sync from learner to engines, and the proof that it worked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainables.errors import DivergedError, WeightSyncError
from trainables.learner.group import LearnerGroup
from trainables.learner.tokens import TokenBatch
from trainables.loop.buffer import token_batch
from trainables.rollouts.engine import DrawRequest
from trainables.rollouts.pool import EnginePool

PROBE_TOKENS = 4


def sync_weights(
    learner: LearnerGroup,
    engines: EnginePool,
    version: int,
    prompt: Sequence[int],
    temperature: float,
    tolerance: float,
    timeout_s: float,
) -> dict[str, float]:
    """Give every engine the learner's weights as `version`, then compare their log-probs with the learner's.

    The probe draws a few tokens on each engine and scores them with the learner: a reload that silently did
    nothing, a stale prefix cache or a wrong temperature all show here. Raises WeightSyncError beyond
    `tolerance` (nats, largest token), and RayActorError or EngineLost for an engine that has not loaded
    within `timeout_s`. Returns `parity` (that largest difference), `sync_mb` and the seconds of gathering and
    of sending.
    """
    transfer = engines.update(learner, version, timeout_s)
    request = DrawRequest(
        prompts=[prompt],
        seed_R=np.array([version], dtype=np.int64),
        temperature_R=np.array([temperature]),
        max_tokens_R=np.array([PROBE_TOKENS], dtype=np.int64),
    )
    completions = engines.draw_on_each(request)
    tokens = TokenBatch.concatenate([token_batch([prompt], d) for d in completions])
    exact_M = learner.forward(tokens).logprob_M
    parity = float(np.abs(exact_M - tokens.sampler_logprob_M).max())
    if not np.isfinite(exact_M).all():
        raise DivergedError(
            f"weight sync {version}: the learner's log-probs are not finite; lower learner.lr"
        )
    if not parity <= tolerance:
        raise WeightSyncError(
            f"weight sync {version}: engine and learner differ by {parity:.3g} nats on the same tokens, more "
            f"than engine.parity_tolerance={tolerance:g}; the engine did not take the new weights exactly "
            "(models that tie embeddings and output cannot be reloaded by vLLM on CPUs: untie the model, use "
            "engine.kind=transformers, or run on GPUs)"
        )
    return {
        "parity": parity,
        "sync_mb": transfer.nbytes / 1e6,
        "sync_gather_s": transfer.gather_s,
        "sync_send_s": transfer.send_s,
    }
