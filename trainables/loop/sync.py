"""Weight sync from learner to engines, and the proof that it worked."""

from __future__ import annotations

import numpy as np

from trainables.errors import DivergedError, WeightSyncError
from trainables.learner.tokens import TokenBatch
from trainables.loop.buffer import token_batch
from trainables.loop.state import Run
from trainables.rollouts.engine import DrawRequest

PROBE_TOKENS = 4


def sync_weights(run: Run) -> dict[str, float]:
    """Give every engine the learner's weights as `version`, then compare their log-probs with the learner's.

    The probe draws a few tokens on each engine and scores them with the learner. It detects a reload that
    silently did nothing, a stale prefix cache and a wrong temperature. Returns `parity` (the largest
    difference of a token's log-prob, nats), `sync_mb`, and the seconds of gathering and of sending.

    Raises:
        WeightSyncError: `parity` exceeds the run's tolerance.
        DivergedError: The learner's log-probs are not finite.
        EngineLost: An engine raised, or the broadcast failed within `engine.sync_timeout_s` seconds.
        RayActorError: An engine's process has died, or was killed at that deadline.
    """
    learner, engines, version = run.lease.learner, run.lease.engines, run.counters.version
    prompt = run.problems.tokens("train")[0]
    transfer = engines.update(learner, version, run.config.engine.sync_timeout_s)
    request = DrawRequest(
        prompts=[prompt],
        seed_R=np.array([version], dtype=np.int64),
        temperature_R=np.array([run.config.sampling.temperature]),
        max_tokens_R=np.array([PROBE_TOKENS], dtype=np.int64),
    )
    completions = engines.draw_on_each(request)
    tokens = TokenBatch.concatenate([token_batch([prompt], c) for c in completions])
    learner_logprob_M = learner.forward(tokens).logprob_M
    if not np.isfinite(learner_logprob_M).all():
        raise DivergedError(
            f"weight sync {version}: the learner's log-probs are not finite; lower learner.lr"
        )
    parity = float(np.abs(learner_logprob_M - tokens.sampler_logprob_M).max())
    if not parity <= run.parity_tolerance:
        raise WeightSyncError(
            f"weight sync {version}: engine and learner differ by {parity:.3g} nats on the same tokens, more "
            f"than engine.parity_tolerance={run.parity_tolerance:g}; the engine did not take the new weights "
            "exactly (models that tie embeddings and output cannot be reloaded by vLLM on CPUs: untie the "
            "model, use engine.kind=transformers, or run on GPUs)"
        )
    return {
        "parity": parity,
        "sync_mb": transfer.nbytes / 1e6,
        "sync_gather_s": transfer.gather_s,
        "sync_send_s": transfer.send_s,
    }
