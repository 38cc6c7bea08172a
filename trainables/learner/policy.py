"""The policy on one micro-batch: loading it, log-probs of responses, what its loss needs. torch.

Shapes: B rows, S columns of a padded micro-batch, T its longest response, M response tokens of the batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trainables.learner.losses import LossInput
from trainables.learner.tokens import Float32, Padded, TrainBatch, ragged_index


def load_policy(model: str, dtype: torch.dtype) -> Any:
    """Load a causal language model from a local directory or a hub id."""
    config = AutoConfig.from_pretrained(model)
    # Safetensors only: other formats are pickles, which run code when they are read.
    return AutoModelForCausalLM.from_pretrained(
        model, config=config, dtype=dtype, attn_implementation="sdpa", use_safetensors=True
    )


def pad_token_of(model: Any) -> int:
    """Return the id to pad with. Padding is masked everywhere: any id will do if the model declares none."""
    return int(model.config.pad_token_id or 0)


def response_logprobs(
    model: Any, part: Padded, temperature: float, device: torch.device, *, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probs and entropies, nats, of the response tokens, both (B, T).

    `model` is the policy or its DeepSpeed engine. The second tensor is meaningless unless `entropy` is set.
    """
    token_BS = torch.from_numpy(part.token_BS).to(device)
    mask_BS = torch.from_numpy(part.mask_BS).to(device)
    longest = part.response_mask_BT.shape[1]
    output = model(
        input_ids=token_BS,
        attention_mask=mask_BS,
        position_ids=(mask_BS.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=longest + 1,
    )
    # Position s predicts token s + 1: the last T tokens are predicted by the T positions before the end.
    logits_BTV = output.logits[:, -longest - 1 : -1].float() / temperature
    normaliser_BT = torch.logsumexp(logits_BTV, dim=-1)
    chosen_BT = logits_BTV.gather(-1, token_BS[:, -longest:, None]).squeeze(-1)
    if not entropy:
        return chosen_BT - normaliser_BT, normaliser_BT
    mean_BT = (logits_BTV.softmax(dim=-1) * logits_BTV).sum(dim=-1)
    return chosen_BT - normaliser_BT, normaliser_BT - mean_BT


def loss_input(batch: TrainBatch, part: Padded, logprob_BT: torch.Tensor, device: torch.device) -> LossInput:
    """Put the batch's numbers for one of its micro-batches beside the micro-batch's log-probs."""
    mask_BT = part.response_mask_BT
    rows = part.row_B[part.row_B >= 0]
    index = ragged_index(batch.tokens.response_length_N, rows)

    def padded(flat_M: Float32) -> torch.Tensor:
        full_BT = np.zeros(mask_BT.shape, dtype=np.float32)
        full_BT[mask_BT] = flat_M[index]
        return torch.from_numpy(full_BT).to(device)

    weight_B = np.zeros(len(mask_BT), dtype=np.float32)
    weight_B[: len(rows)] = batch.weight_N[rows]
    return LossInput(
        logprob_BT=logprob_BT,
        old_logprob_BT=padded(batch.old_logprob_M),
        sampler_logprob_BT=padded(batch.tokens.sampler_logprob_M),
        advantage_BT=padded(batch.advantage_M),
        weight_B=torch.from_numpy(weight_B).to(device),
        mask_BT=torch.from_numpy(mask_BT).to(device),
    )
